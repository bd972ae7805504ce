-- depth: the best price levels of a card's book.
--
-- KEYS  {card}
-- ARGS  how many levels a side
-- Reply {sequence, {bid price_cents, quantity, …}, {ask price_cents, quantity, …}}, best first
local PAGE = 1000

local function levels(tag, name, limit)
  local reply, from, price = {}, 0, nil
  while true do
    local members = redis.call('ZRANGE', tag .. name, from, from + PAGE - 1, 'WITHSCORES')
    local fields = {}
    for i = 1, #members, 2 do fields[#fields + 1] = members[i] end
    local records = bulk.read(tag .. ':open', fields)
    for i = 1, #fields do
      local record_price = math.abs(tonumber(members[2 * i]))
      if record_price ~= price then
        if #reply == 2 * limit then return reply end
        price = record_price
        reply[#reply + 1] = price
        reply[#reply + 1] = 0
      end
      if records[i] then
        local _, filled, _, _, quantity = side.parse(records[i])
        reply[#reply] = reply[#reply] + quantity - filled
      end
    end
    if #fields < PAGE then return reply end
    from = from + PAGE
  end
end

local function depth(keys, args)
  local tag, limit = keys[1], tonumber(args[1])
  if not limit or limit < 1 or limit % 1 ~= 0 then
    return redis.error_reply('ERR depth takes how many levels, a positive integer')
  end
  return { cursor.read(tag).sequence, levels(tag, ':bids', limit), levels(tag, ':asks', limit) }
end

return depth
