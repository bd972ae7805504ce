-- sort: puts what lately happened to traders' orders into their lists, a bucket or two that are due (parts/trader.lua).
--
-- Guarantee: what is read of a trader's orders is the same before and after, so a call may be made by anyone, any number
--   of times, or never: then match does it itself, later and more at once.
-- KEYS  {card}
-- ARGS  none
-- Reply how many buckets are still due
local function sort(keys)
  local tag = keys[1]
  trader.sort(tag)
  return trader.due(tag)
end

return sort
