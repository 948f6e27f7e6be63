-- Answers of grpc.health.v1 in the shape of an actuator: 200 {"status":"UP"}, and 503 {"status":"DOWN"} for whatever
-- else happens. A route's script runs instead of edge.lua, not after it.

local HIDDEN = {"grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding", "grpc-encoding"}

function envoy_on_response(handle)
  local answered = handle:headers():get(":status") == "200"
  local body = handle:body(true)
  local serving = answered and string.find(body:getBytes(0, body:length()), '"SERVING"', 1, true) ~= nil
  local text = serving and '{"status":"UP"}' or '{"status":"DOWN"}'
  body:setBytes(text)

  local headers = handle:headers()        -- fetched after body(): wrappers die when a call waits
  for i = 1, #HIDDEN do
    headers:remove(HIDDEN[i])
  end
  headers:replace(":status", serving and "200" or "503")
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(#text))
end
