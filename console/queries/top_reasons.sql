-- Which features raised the score of alerts most: how often each was the first reason, and its mean push in log-odds.
with one_per_transaction as (
  select transaction_id, decision, reasons,
         row_number() over (partition by transaction_id order by degraded, scored_at_ms) as publication
  from decisions
)
select element_at(reasons, 1).feature as first_reason,
       count(*) as alerts,
       avg(element_at(reasons, 1).contribution) as mean_contribution
from one_per_transaction
where publication = 1 and decision <> 'approve' and cardinality(reasons) > 0
group by element_at(reasons, 1).feature
order by alerts desc, first_reason
