"""Who calls and what they may do: an OAuth 2.0 resource server (https://www.rfc-editor.org/rfc/rfc6750)."""
