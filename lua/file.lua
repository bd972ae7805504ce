-- file: copies to {card}:recent what events say of traders' orders, as the engine has put it in order (engine/filing.py).
--
-- Guarantee: how far events are filed moves in the same step, and a call that does not begin there changes nothing: so it
--   may be made by anyone, any number of times. Whoever reads a trader's orders finds the same before and after.
-- KEYS  {card}
-- ARGS  what `filed` of {card}:recent is ("0-0 0": nothing yet), then fields and values in turn: `filed` with the last
--       event of this call and one portion more, and of each bucket that gets lines its portion of that number
-- Reply what `filed` is now
local function file(keys, args)
  if #args < 3 or #args % 2 ~= 1 or args[2] ~= 'filed' then
    return redis.error_reply('ERR file takes what is filed, and fields and values in turn: filed first')
  end
  return trader.file(keys[1], args)
end

return file
