-- The merchants with most declines, and the share of their transactions that was declined.
with one_per_transaction as (
  select transaction_id, merchant_id, decision,
         row_number() over (partition by transaction_id order by degraded, scored_at_ms) as publication
  from decisions
)
select merchant_id,
       count(*) as transactions,
       count_if(decision = 'decline') as declines,
       cast(count_if(decision = 'decline') as double) / count(*) as decline_rate
from one_per_transaction
where publication = 1
group by merchant_id
having count_if(decision = 'decline') > 0
order by declines desc, decline_rate desc, merchant_id
limit 50
