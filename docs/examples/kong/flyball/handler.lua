-- Holds calls of models to Flyball's budgets and flags: it asks in the access phase, and settles in the log phase. The
-- client's key is one of Flyball's virtual keys; a plugin of a lower priority puts the provider's in its place.

local http = require "resty.http"

local Flyball = { VERSION = "0.1.0", PRIORITY = 900 }

local most = 30 * 1024 * 1024 -- bytes of a body that Flyball reads

local asked = { "authorization", "x-api-key", "content-type", "content-encoding", "traceparent",
  "x-llm-session", "x-llm-task", "x-llm-template", "x-llm-provider", "x-llm-tenant", "x-llm-key" }
local told = { "x-llm-route", "x-llm-model", "x-llm-cost-estimate", "x-llm-budget-remaining", "ratelimit", "ratelimit-policy" }

-- edited is the body with the edits, the last of which comes first: offset:length:text, the text percent-encoded.
local function edited(body, edits)
  for offset, length, text in edits:gmatch("(%d+):(%d+):([^,]*)") do
    text = text:gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end)
    body = body:sub(1, offset) .. text .. body:sub(offset + length + 1)
  end
  return body
end

local function ask(conf, method, path, headers, body)
  local client = http.new()
  client:set_timeout(conf.timeout_ms)
  return client:request_uri(conf.url .. path, { method = method, headers = headers, body = body })
end

function Flyball:access(conf)
  local body = kong.request.get_raw_body(most)
  if not body then
    return kong.response.exit(413, { error = { message = "the body is larger than is read", type = "invalid_request_error" } })
  end
  local headers = {}
  for _, name in ipairs(asked) do
    headers[name] = kong.request.get_header(name)
  end
  local answer, err = ask(conf, kong.request.get_method(), "/v1/authz" .. kong.request.get_path(), headers, body)
  if not answer then
    kong.log.err("Flyball is away: ", err)
    return kong.response.exit(503, { error = { message = "budgets cannot be asked: try again", type = "server_error" } })
  end
  if answer.status ~= 200 then
    return kong.response.exit(answer.status, answer.body, {
      ["Content-Type"] = answer.headers["Content-Type"], ["Retry-After"] = answer.headers["Retry-After"],
      ["X-Should-Retry"] = answer.headers["X-Should-Retry"],
    })
  end
  local call = kong.ctx.plugin
  call.hold, call.began, call.chunks, call.size, call.answer = answer.headers["X-Flyball-Hold-Id"], ngx.now(), {}, 0, answer.headers
  if answer.headers["X-Flyball-Edits"] then
    kong.service.request.set_raw_body(edited(body, answer.headers["X-Flyball-Edits"]))
  end
  kong.service.request.clear_header("accept-encoding") -- Flyball reads the answer as it is
end

function Flyball:header_filter()
  for _, name in ipairs(told) do
    local value = (kong.ctx.plugin.answer or {})[name]
    if value then
      kong.response.set_header(name, value)
    end
  end
end

function Flyball:body_filter()
  local call = kong.ctx.plugin
  if not call.hold then
    return
  end
  local chunk, last = ngx.arg[1], ngx.arg[2]
  if chunk and chunk ~= "" then
    call.first = call.first or ngx.now()
    call.size = call.size + #chunk
    if call.size <= most then
      call.chunks[#call.chunks + 1] = chunk
    end
  end
  call.whole = last and call.size <= most
end

function Flyball:log(conf)
  local call = kong.ctx.plugin
  if not call.hold then
    return
  end
  local status, whole, kind = kong.response.get_status(), call.whole, kong.response.get_header("content-type")
  if status == 504 then -- nobody knows what the provider went on to do: it counts at its worst
    status, whole, kind = 200, false, nil
  end
  local headers = {
    ["Content-Type"] = kind or "application/json",
    ["X-Flyball-Hold-Id"] = call.hold,
    ["X-Flyball-Upstream-Status"] = tostring(status),
    ["X-Flyball-Complete"] = tostring(whole == true),
    ["X-Flyball-Latency-Ms"] = string.format("%d", math.floor(1000 * (ngx.now() - call.began))),
    ["X-Flyball-TTFT-Ms"] = string.format("%d", math.floor(1000 * ((call.first or call.began) - call.began))),
    ["Authorization"] = conf.token and "Bearer " .. conf.token or nil,
  }
  local body = table.concat(call.chunks)
  ngx.timer.at(0, function() -- this phase has no sockets
    local answer, err = ask(conf, "POST", "/v1/settle/response", headers, body)
    if not answer or answer.status ~= 200 then
      kong.log.err("a call was not settled, and counts at its worst until the ledger has it: ", err or answer.body)
    end
  end)
end

return Flyball
