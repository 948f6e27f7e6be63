-- Turns the transcoder's JSON into the public REST contract. Native gRPC and gRPC-Web pass untouched.
--
-- The service says by metadata what HTTP cannot express through a gRPC status:
--   x-http-status  the HTTP status (initial metadata on success, trailing metadata on an error)
--   x-error-body   the whole error envelope as ASCII-only JSON, at most 8 KiB (trailing metadata)
--
-- Two rules of Envoy 1.40 shape this file:
--   * body() before trailers(): the other way round crashes Envoy when the answer has no DATA frames.
--   * wrappers die when a call waits: after body() fetch headers() again.

-- gRPC errors without an envelope come from below the service's error handler: gRPC itself, load shedding, a crash.
-- Their text may show internals, so it is replaced. By gRPC status number: HTTP status, code, message.
local FALLBACK = {
  ["1"] = {"503", "SERVICE_UNAVAILABLE", "Service temporarily unavailable"},  -- cancelled by a service that stops
  ["3"] = {"400", "INVALID_REQUEST", "Invalid request"},
  ["4"] = {"504", "UPSTREAM_TIMEOUT", "Request timed out"},
  ["5"] = {"404", "NOT_FOUND", "Resource not found"},
  ["7"] = {"403", "FORBIDDEN", "Access denied"},
  ["8"] = {"429", "RATE_LIMIT_EXCEEDED", "Too many requests"},
  ["12"] = {"501", "NOT_IMPLEMENTED", "Not implemented"},
  ["14"] = {"503", "SERVICE_UNAVAILABLE", "Service temporarily unavailable"},
  ["16"] = {"401", "UNAUTHENTICATED", "Authentication required"},
}
local INTERNAL = {"500", "INTERNAL_ERROR", "Internal server error"}

local INTERNAL_HEADERS = {
  "grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding", "grpc-encoding",
  "x-http-status", "x-error-body", "x-retry-safe",
}

local function hide(headers)
  for i = 1, #INTERNAL_HEADERS do
    headers:remove(INTERNAL_HEADERS[i])
  end
end

-- The gRPC status number in the body that convert_grpc_status writes, or nil for any other body.
local function grpc_status(body)
  local length = body:length()
  if length == 0 then return nil end
  return string.match(body:getBytes(0, math.min(length, 16)), '^{"code":(%d+)')
end

-- Values from the request are cut down to characters that need no escaping in JSON.
local function envelope(code, message, request)
  local path = string.match(request:get("x-envoy-original-path") or request:get(":path") or "", "^[^?]*")
  return string.format(
    '{"error":{"code":"%s","message":"%s","timestamp":"%s","path":"%s","traceId":"%s"}}',
    code, message, os.date("!%Y-%m-%dT%H:%M:%SZ"),
    (string.gsub(path, '[%c"\\]', "")), string.sub(request:get("traceparent") or "", 4, 35))
end

local hex = function(digits) return string.rep("[0-9a-f]", digits) end
-- https://www.w3.org/TR/trace-context/#traceparent-header
local TRACEPARENT = "^" .. hex(2) .. "%-(" .. hex(32) .. ")%-(" .. hex(16) .. ")%-" .. hex(2) .. "$"
local NO_TRACE, NO_PARENT = string.rep("0", 32), string.rep("0", 16)

-- LuaJIT begins every worker with the same seed; the address of a new table is chance enough to tell them apart.
math.randomseed(os.time() + tonumber(string.sub(tostring({}), 8), 16) % 4294967296)

local function is_traceparent(value)
  local trace_id, parent_id = string.match(value or "", TRACEPARENT)
  return trace_id and trace_id ~= NO_TRACE and parent_id ~= NO_PARENT and string.sub(value, 1, 2) ~= "ff"
end

local function new_traceparent(sampled)
  local part = function() return math.random(0, 4294967295) end
  return string.format("00-%08x%08x%08x%08x-%08x%08x-%s", part(), part(), part(), part(), part(), part(),
    math.random() < sampled and "01" or "00")
end

-- Touches neither body nor trailers: a stream keeps streaming.
local function succeed(headers)
  local status = headers:get("x-http-status")
  hide(headers)
  if status then headers:replace(":status", status) end
end

-- A stream that has begun has no status left to fail with, so the service tells an error as its last message, with the
-- envelope in hex where the id of a reservation would be. No such id begins with "error:". A chunk is whole messages.
local function stream(handle)
  for chunk in handle:bodyChunks() do
    local before, envelope = string.match(chunk:getBytes(0, chunk:length()), '^(.*)data: {"reservationId":"error:(%x+)"')
    if envelope then
      chunk:setBytes(before .. "data: " .. string.gsub(envelope, "%x%x", function(byte)
        return string.char(tonumber(byte, 16))
      end) .. "\n\n")
    end
  end
  local trailers = handle:trailers()
  if trailers then hide(trailers) end
end

local function fail(handle)
  local body = handle:body(true)
  local headers = handle:headers()
  local status, error_body = headers:get("x-http-status"), headers:get("x-error-body")
  if not error_body then
    local trailers = handle:trailers()     -- where they are when initial metadata went out before the error
    if trailers then
      status, error_body = trailers:get("x-http-status") or status, trailers:get("x-error-body")
      hide(trailers)
    end
  end
  if not error_body then
    local number = grpc_status(body)
    if number then
      local fallback = FALLBACK[number] or INTERNAL
      status, error_body = status or fallback[1], envelope(fallback[2], fallback[3], handle:requestHeaders())
    end
  end
  hide(headers)
  if status then headers:replace(":status", status) end
  if headers:get(":status") == "429" and not headers:get("retry-after") then headers:replace("retry-after", "1") end
  if error_body then
    body:setBytes(error_body)
    headers:replace("content-length", tostring(#error_body))
  end
end

-- Every request has a trace from here on, so that answers, log lines, spans and events tell of it by one id.
function envoy_on_request(handle)
  local headers = handle:headers()
  if not is_traceparent(headers:get("traceparent")) then
    headers:replace("traceparent", new_traceparent(handle:filterContext():get("sampled") or 0))
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local content_type = headers:get("content-type") or ""
  if content_type == "text/event-stream" then
    hide(headers)
    stream(handle)
  elseif string.sub(content_type, 1, 16) == "application/json" then
    if headers:get(":status") == "200" then succeed(headers) else fail(handle) end
  end
end
