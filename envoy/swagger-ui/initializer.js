// The page shows this service's document and no other: it has no field for an address, and takes none from the URL.
// A token that somebody enters is forgotten with the page.
SwaggerUIBundle({
  url: "/v3/api-docs",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
});
