package gateway_test

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/usage"
)

// asking is what the stand-ins for Envoy and Kong have in common: the environment says what the client sends and what
// the provider answers, and Flyball is asked by curl.
const asking = `
local examples, url, path, body = os.getenv("EXAMPLES"), os.getenv("FLYBALL_URL"), os.getenv("CALL_PATH"), os.getenv("CALL")
local status, kind, answer = os.getenv("STATUS"), "text/event-stream", os.getenv("ANSWER")
local client = { authorization = "Bearer x", ["content-type"] = "application/json", ["x-llm-tenant"] = "org_42", ["x-llm-provider"] = "test",
  ["accept-encoding"] = "gzip", ["content-length"] = tostring(#body) }

local function slurp(name)
  local file = assert(io.open(name, "rb"))
  local text = file:read("*a")
  file:close()
  os.remove(name)
  return text
end

local function curl(method, to, headers, sent)
  local sending, heads, got = os.tmpname(), os.tmpname(), os.tmpname()
  local file = assert(io.open(sending, "wb"))
  file:write(sent or "")
  file:close()
  local command = { "curl -s -X", method, "--data-binary @" .. sending, "-D", heads, "-o", got }
  for name, value in pairs(headers) do
    command[#command + 1] = "-H '" .. name .. ": " .. value .. "'"
  end
  command[#command + 1] = "'" .. to .. "'"
  os.execute(table.concat(command, " "))
  slurp(sending)
  local lines, named = slurp(heads), {}
  for name, value in lines:gmatch("([%w-]+): ([^\r\n]*)") do
    named[name:lower()] = value
  end
  return { status = tonumber(lines:match("HTTP/%S+ (%d+)")), body = slurp(got), headers = setmetatable({}, { __index = function(_, name) return named[name:lower()] end }) }
end

local now = 1768469027000
local function tick()
  now = now + 40
  return now
end
`

const envoyStandIn = asking + `
dofile(examples .. "/envoy/flyball.lua")
local allowed = curl("POST", url .. "/v1/authz" .. path, client, body)
if allowed.status ~= 200 then
  print("refused", allowed.status)
  os.exit(0)
end
for _, name in ipairs({ "x-flyball-hold-id", "x-flyball-edits" }) do
  client[name] = allowed.headers[name]
end
local metadata = {}
local function handle(headers)
  return {
    headers = function() return {
      get = function(_, name) return headers[name] end,
      remove = function(_, name) headers[name] = nil end,
      replace = function(_, name, value) headers[name] = tostring(value) end,
    } end,
    body = function() return {
      length = function() return #body end,
      getBytes = function(_, from, n) return body:sub(from + 1, from + n) end,
      setBytes = function(_, text) body = text return #body end,
    } end,
    bodyChunks = function()
      local rest = answer
      return function()
        if rest == "" then return nil end
        local chunk = rest:sub(1, 50)
        rest = rest:sub(51)
        return { length = function() return #chunk end, getBytes = function(_, from, n) return chunk:sub(from + 1, from + n) end }
      end
    end,
    streamInfo = function() return { dynamicMetadata = function() return {
      set = function(_, of, name, value) metadata[of] = metadata[of] or {} metadata[of][name] = value end,
      get = function(_, of) return metadata[of] end,
    } end } end,
    timestamp = tick,
    httpCall = function(_, cluster, sent, text, _, asynchronous)
      assert(cluster == "flyball" and asynchronous == true)
      local plain = {}
      for name, value in pairs(sent) do
        if name:sub(1, 1) ~= ":" then plain[name] = value end
      end
      print("settled", curl(sent[":method"], url .. sent[":path"], plain, text).status)
    end,
  }
end
envoy_on_request(handle(client))
assert(not client["x-flyball-hold-id"] and not client["x-flyball-edits"] and not client["accept-encoding"])
assert(client["content-length"] == tostring(#body), "the length is not the body's")
print("sent", body)
envoy_on_response(handle({ [":status"] = status, ["content-type"] = kind }))
`

const kongStandIn = asking + `
package.path = examples .. "/kong/?.lua"
package.loaded["resty.http"] = { new = function() return {
  set_timeout = function() end,
  request_uri = function(_, to, o)
    local got = curl(o.method, to, o.headers, o.body)
    if to:find("settle") then print("settled", got.status) end
    return got
  end,
} end }
local shown = {}
kong = {
  ctx = { plugin = {} },
  log = { err = function(...) io.stderr:write(..., "\n") os.exit(1) end },
  request = {
    get_method = function() return "POST" end, get_path = function() return path end,
    get_raw_body = function() return body end, get_header = function(name) return client[name] end,
  },
  response = {
    exit = function(code) print("refused", code) os.exit(0) end,
    get_status = function() return tonumber(status) end,
    get_header = function(name) return name == "content-type" and kind or nil end,
    set_header = function(name, value) shown[name] = value end,
  },
  service = { request = {
    set_raw_body = function(text) body = text end, clear_header = function(name) client[name] = nil end,
  } },
}
ngx = { arg = {}, now = function() return tick() / 1000 end, timer = { at = function(_, f) f() end } }
local plugin, conf = require "flyball.handler", { url = url, timeout_ms = 1000 }
assert(require("flyball.schema").name == "flyball")
plugin:access(conf)
assert(not client["accept-encoding"])
print("sent", body)
plugin:header_filter(conf)
assert(shown["x-llm-budget-remaining"] and shown["ratelimit"])
for i = 1, #answer, 50 do
  ngx.arg = { answer:sub(i, i + 49), i + 50 > #answer }
  plugin:body_filter(conf)
end
plugin:log(conf)
`

// What docs/examples has for Envoy and Kong makes the call that Flyball allowed, and settles it by the answer.
func TestExamplesOfGateways(t *testing.T) {
	t.Parallel()
	lua := ""
	for _, name := range []string{"luajit", "lua5.4", "lua"} { // both gateways have LuaJIT
		if path, err := exec.LookPath(name); err == nil {
			lua = path
			break
		}
	}
	if lua == "" {
		t.Skip("neither luajit nor lua5.4 is installed: the examples of Envoy and Kong are not run")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed: the examples of Envoy and Kong are not run")
	}
	examples, err := filepath.Abs("../../docs/examples")
	require.NoError(t, err)
	const stream = "data: {\"id\":\"c\",\"model\":\"big\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n"
	const end = "data: {\"id\":\"c\",\"model\":\"big\",\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":5,\"total_tokens\":25}}\n\ndata: [DONE]\n\n"
	for gateway, program := range map[string]string{"Envoy": envoyStandIn, "Kong": kongStandIn} {
		for name, tc := range map[string]struct {
			ceiling        budget.Micro
			path           string
			status, answer string
			refused        string // with which status
			tokens         *usage.Tokens
			complete       bool
		}{
			"settled":                      {ceiling: 10_000_000, status: "200", answer: stream + end, tokens: &usage.Tokens{UncachedInput: 20, Output: 5}, complete: true},
			"one that failed is free":      {ceiling: 10_000_000, status: "500", answer: "{}"},
			"one that timed out, at worst": {ceiling: 10_000_000, status: "504", answer: "late", tokens: &usage.Tokens{UncachedInput: 204, Output: 4000}},
			"over budget":                  {ceiling: 1, refused: "429"},
			"no call that can be bounded":  {ceiling: 10_000_000, path: "/v1/images/generations", refused: "404"},
		} {
			t.Run(gateway+" "+name, func(t *testing.T) {
				t.Parallel()
				b := monthly(tc.ceiling)
				server := httptest.NewServer(external(t, externalOptions(t, b), still))
				defer server.Close()
				path := tc.path
				if path == "" {
					path = "/v1/chat/completions"
				}
				run := exec.CommandContext(t.Context(), lua, "-")
				run.Stdin = strings.NewReader(program)
				run.Env = append(os.Environ(), "EXAMPLES="+examples, "FLYBALL_URL="+server.URL, "CALL_PATH="+path, "CALL="+bigChat, "STATUS="+tc.status, "ANSWER="+tc.answer)
				out, err := run.CombinedOutput()
				require.NoError(t, err, string(out))
				said := map[string]string{}
				for line := range strings.Lines(string(out)) {
					word, rest, _ := strings.Cut(strings.TrimSpace(line), "\t")
					said[word] = rest
				}
				require.Equal(t, tc.refused, said["refused"], string(out))
				require.Empty(t, b.held)
				if tc.refused != "" {
					require.Empty(t, b.spans)
					return
				}
				require.JSONEq(t, `{"model": "big", "messages": [{"role": "user", "content": "Which \"model\": is it?"}], "stream": true,
					"stream_options": {"include_usage": true}, "max_completion_tokens": 4000}`, said["sent"])
				require.Equal(t, "200", said["settled"], string(out))
				require.Len(t, b.settled, 1)
				if tc.tokens == nil {
					require.Empty(t, b.spans)
					return
				}
				require.Len(t, b.spans, 1)
				for _, s := range b.spans {
					require.Equal(t, *tc.tokens, s.Tokens)
					require.Equal(t, tc.complete, s.UsageComplete)
					require.Positive(t, s.LatencyMS)
				}
			})
		}
	}
}
