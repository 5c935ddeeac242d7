-- Transactions and alerts (review or decline) by hour of arrival, UTC.
with one_per_transaction as (
  select transaction_id, decision, arrival_ms,
         row_number() over (partition by transaction_id order by degraded, scored_at_ms) as publication
  from decisions
)
select arrival_ms - arrival_ms % 3600000 as hour_start_ms,
       count(*) as transactions,
       count_if(decision = 'review') as reviews,
       count_if(decision = 'decline') as declines
from one_per_transaction
where publication = 1
group by arrival_ms - arrival_ms % 3600000
order by hour_start_ms
