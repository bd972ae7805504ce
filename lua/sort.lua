-- sort: enters into traders' lists what lately happened to their orders, as the engine has sorted it (engine/sorting.py).
--
-- Guarantee: what is read of a trader's orders is the same before and after. A bucket that is not what was sorted is left as
--   it is, so a call may be made by anyone, any number of times, or never: then match sorts, later and at a higher price.
-- KEYS  {card}
-- ARGS  a bucket (the <dd> of {card}:recent:<dd>), how many of its first bytes are sorted, the first line of them,
--       "<trader> <how many lines> " for each trader that has some, then the lines of each as one text
-- Reply 1, or 0 where the bucket does not begin so; then the buckets that are due to be sorted
local FIXED = 4 -- arguments before the texts

local function sort(keys, args)
  local tag, bucket, bytes = keys[1], args[1], tonumber(args[2])
  local ids, sizes = {}, {}
  for id, size in string.gmatch(args[4] or '', '(%d+) (%d+) ') do
    ids[#ids + 1], sizes[#ids + 1] = id, tonumber(size)
  end
  if not bytes or #args ~= FIXED + #ids then
    return redis.error_reply('ERR sort takes a bucket, bytes, its first line, traders with numbers of lines, and a text '
      .. 'of each')
  end
  local done = trader.enter_sorted(tag, bucket, bytes, args[3], ids, sizes, args, FIXED)
  return { done and 1 or 0, trader.due(tag) }
end

return sort
