-- enter_lists: in place of trader.enter, a list a trader, without what keeps it short.
function trader.enter(tag, batch, fields, count)
  local kinds, traders, prefix = batch.kinds, batch.traders, tag .. ':trader:'
  for i = 1, count do
    if kinds[i] ~= 0 then redis.call('RPUSH', prefix .. traders[i], fields[i]) end
  end
end
