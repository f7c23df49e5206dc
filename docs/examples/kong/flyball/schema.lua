return {
  name = "flyball",
  fields = {
    { config = {
      type = "record",
      fields = {
        { url = { type = "string", required = true, default = "http://127.0.0.1:8080" } },
        { token = { type = "string", referenceable = true, encrypted = true } }, -- of the scope decide
        { timeout_ms = { type = "integer", default = 2000 } },
      },
    } },
  },
}
