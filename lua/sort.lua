-- sort: enters into traders' lists what lately happened to their orders, as the engine has sorted it (engine/sorting.py).
--
-- Guarantee: what is read of a trader's orders is the same before and after. A bucket whose portions begin elsewhere, or
--   end before, is left as it is, so a call may be made by anyone, any number of times.
-- KEYS  {card}
-- ARGS  a bucket (the <dd> of {card}:recent), up to which portion it was sorted before, and is with this call,
--       "<trader> <how many lines> " for each trader that has some, then the lines of each as one text
-- Reply 1, or 0 where it is left as it is
local FIXED = 4 -- arguments before the texts

local function sort(keys, args)
  local tag, bucket, first, last = keys[1], args[1], tonumber(args[2]), tonumber(args[3])
  local ids, sizes = {}, {}
  for id, size in string.gmatch(args[4] or '', '(%d+) (%d+) ') do
    ids[#ids + 1], sizes[#ids + 1] = id, tonumber(size)
  end
  if not (first and last) or #args ~= FIXED + #ids then
    return redis.error_reply('ERR sort takes a bucket, two portions, traders with numbers of lines, and a text of each')
  end
  return trader.enter_sorted(tag, bucket, first, last, ids, sizes, args, FIXED) and 1 or 0
end

return sort
