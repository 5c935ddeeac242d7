-- Scores in twenty equal bins; a score of exactly 1 belongs to the last one. Degraded decisions have no score.
with one_per_transaction as (
  select transaction_id, score,
         row_number() over (partition by transaction_id order by degraded, scored_at_ms) as publication
  from decisions
)
select cast(least(floor(score * 20), 19) as bigint) as bin,
       min(score) as lowest_score,
       max(score) as highest_score,
       count(*) as transactions
from one_per_transaction
where publication = 1 and score is not null
group by cast(least(floor(score * 20), 19) as bigint)
order by bin
