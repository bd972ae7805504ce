-- depth: the best price levels of a card's book.
--
-- KEYS   {card}
-- ARGS   the most levels of each side
-- Reply  {sequence, {bid price_cents, quantity, …}, {ask price_cents, quantity, …}}, best first. `sequence` is the last
--        command that is in the book
-- Errors ERR where the argument is no positive integer
local function depth(keys, args)
  local tag, limit = keys[1], tonumber(args[1])
  if not limit or limit < 1 or limit % 1 ~= 0 then
    return redis.error_reply('ERR depth takes how many levels, a positive integer')
  end
  local position = cursor.read(tag)
  local bids, asks = levels.best(tag, position, limit)
  return { position.sequence, bids, asks }
end

return depth
