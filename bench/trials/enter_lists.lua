-- enter_lists: within the match call, each line to its trader's list at once, without what keeps it short.
function trader.enter(tag, _, orders, orders_count, rested, rested_count)
  for n = 1, orders_count do redis.call('RPUSH', list_key(tag, string.match(orders[n], ',(%d+)')), orders[n]) end
  for n = 1, rested_count do redis.call('RPUSH', list_key(tag, string.match(rested[n], ',(%d+)')), rested[n]) end
end
