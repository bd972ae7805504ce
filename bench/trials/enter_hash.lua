-- enter_hash: in place of trader.enter, a hash with a trader's whole list a field, without what keeps it short.
function trader.enter(tag, batch, fields, count)
  local kinds, traders, slot_of, ids, added = batch.kinds, batch.traders, {}, {}, {}
  for i = 1, count do
    if kinds[i] ~= 0 then
      local id = traders[i]
      local slot = slot_of[id]
      if slot then
        added[slot] = added[slot] .. ',' .. fields[i]
      else
        slot = #ids + 1
        slot_of[id], ids[slot], added[slot] = slot, id, ',' .. fields[i]
      end
    end
  end
  local before, written = bulk.read(tag .. ':traders', ids), {}
  for slot = 1, #ids do
    written[2 * slot - 1], written[2 * slot] = ids[slot], (before[slot] or '') .. added[slot]
  end
  bulk.call('HSET', tag .. ':traders', written)
end
