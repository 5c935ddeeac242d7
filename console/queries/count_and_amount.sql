-- Transactions and amounts by currency, in minor units of that currency.
with one_per_transaction as (
  select transaction_id, currency, amount_minor,
         row_number() over (partition by transaction_id order by degraded, scored_at_ms) as publication
  from decisions
)
select currency,
       count(*) as transactions,
       cast(sum(amount_minor) as bigint) as amount_minor,
       cast(avg(amount_minor) as double) as mean_amount_minor
from one_per_transaction
where publication = 1
group by currency
order by currency
