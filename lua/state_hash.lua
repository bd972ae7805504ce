-- state_hash: SHA-1 over what matching has made of a card's log: both books in price-time order with all
-- of each resting order but its times, the sequence reached, the number of trades and of rejected entries.
-- Times are left out, so that the same commands appended again give the same hash.
--
-- KEYS  {card}
-- ARGS  none
-- Reply 40 hex digits
local PAGE = 1000

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
