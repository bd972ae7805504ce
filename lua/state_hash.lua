-- state_hash: SHA-1 of the state that matching has reached: both sides of the book in price-time order, the sequence
-- reached, the number of resting orders, of trades and of rejected entries.
--
-- Guarantee: equal commands give equal hashes, also when they are appended again later: the lines of resting orders
--   count without accepted_at.
-- KEYS   {card}
-- ARGS   none
-- Reply  40 hex digits
local PAGE = 1000 -- orders of a read

local function hash_of_book(tag, name, so_far)
  local from = 0
  while true do
    local members = redis.call('ZRANGE', tag .. name, from, from + PAGE - 1, 'WITHSCORES')
    local fields, lines = {}, { so_far, name }
    for i = 1, #members, 2 do fields[#fields + 1] = members[i] end
    local records = bulk.read(tag .. ':open', fields)
    for i = 1, #fields do
      local timeless = string.gsub(records[i] or 'missing', ',[^,]*Z', '', 1)
      lines[#lines + 1] = fields[i] .. ' ' .. text.integer[math.abs(tonumber(members[2 * i]))] .. ' ' .. timeless
    end
    so_far = redis.sha1hex(table.concat(lines, '\n'))
    if #fields < PAGE then return so_far end
    from = from + PAGE
  end
end

local function state_hash(keys)
  local tag = keys[1]
  local position = cursor.read(tag)
  local start = text.integer[position.sequence] .. ' ' .. text.integer[position.trades] .. ' '
    .. text.integer[position.rejected] .. ' ' .. text.integer[redis.call('HLEN', tag .. ':open')]
  return hash_of_book(tag, ':asks', hash_of_book(tag, ':bids', redis.sha1hex(start)))
end

return state_hash
