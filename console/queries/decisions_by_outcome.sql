-- How many transactions were approved, sent to review or declined, their amounts (minor units of whatever currency
-- each has, added as they stand) and their scores; degraded decisions count and have none.
with one_per_transaction as (
  select transaction_id, decision, amount_minor, score,
         row_number() over (partition by transaction_id order by degraded, scored_at_ms) as publication
  from decisions
)
select decision,
       count(*) as transactions,
       cast(sum(amount_minor) as bigint) as amount_minor,
       avg(score) as mean_score,
       min(score) as lowest_score,
       max(score) as highest_score
from one_per_transaction
where publication = 1
group by decision
order by decision
