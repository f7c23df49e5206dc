-- Makes the call that Flyball has allowed, and tells Flyball what the provider answered. It stands behind ext_authz,
-- which has put the hold's id and the edits of the body among the request's headers.

local token = os.getenv("FLYBALL_TOKEN") -- of the scope decide; none where Flyball listens to this machine alone
local most = 30 * 1024 * 1024            -- bytes of an answer that Flyball reads

-- edited is the body with the edits, the last of which comes first: offset:length:text, the text percent-encoded.
local function edited(body, edits)
  for offset, length, text in edits:gmatch("(%d+):(%d+):([^,]*)") do
    text = text:gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end)
    body = body:sub(1, offset) .. text .. body:sub(offset + length + 1)
  end
  return body
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local hold, edits = headers:get("x-flyball-hold-id"), headers:get("x-flyball-edits")
  if not hold then
    return -- it costs nothing
  end
  headers:remove("x-flyball-hold-id")
  headers:remove("x-flyball-edits")
  headers:remove("accept-encoding") -- Flyball reads the answer as it is
  local known = handle:streamInfo():dynamicMetadata()
  known:set("flyball", "hold", hold)
  known:set("flyball", "began", tonumber(handle:timestamp()))
  if edits then
    local body = handle:body()
    local length = body:setBytes(edited(body:getBytes(0, body:length()), edits))
    if headers:get("content-length") then
      headers:replace("content-length", length)
    end
  end
end

function envoy_on_response(handle)
  local known = handle:streamInfo():dynamicMetadata():get("flyball")
  if not known then
    return
  end
  local headers = handle:headers()
  local status, kind = headers:get(":status"), headers:get("content-type")
  local complete, chunks, size, first = true, {}, 0, nil
  for chunk in handle:bodyChunks() do -- each goes on to the client at once
    first = first or tonumber(handle:timestamp())
    size = size + chunk:length()
    if size <= most then
      chunks[#chunks + 1] = chunk:getBytes(0, chunk:length())
    else
      complete = false
    end
  end
  if status == "504" then -- nobody knows what the provider went on to do: it counts at its worst
    status, kind, complete = "200", nil, false
  end
  local report = {
    [":method"] = "POST", [":path"] = "/v1/settle/response", [":authority"] = "flyball",
    ["content-type"] = kind or "application/json",
    ["x-flyball-hold-id"] = known["hold"],
    ["x-flyball-upstream-status"] = status,
    ["x-flyball-complete"] = tostring(complete),
    ["x-flyball-latency-ms"] = string.format("%d", tonumber(handle:timestamp()) - known["began"]),
    ["x-flyball-ttft-ms"] = string.format("%d", (first or known["began"]) - known["began"]),
  }
  if token then
    report["authorization"] = "Bearer " .. token
  end
  handle:httpCall("flyball", report, table.concat(chunks), 5000, true) -- true: nobody waits for it
end
