-- trim_older: drops the completed orders from what is kept of traders' older open ones.
--
-- KEYS  {card}
-- ARGS  trader ids
-- Reply how many traders
local function trim_older(keys, args)
  for a = 1, #args do trader.trim_older(keys[1], args[a]) end
  return #args
end

return trim_older
