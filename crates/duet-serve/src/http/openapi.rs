//! `/openapi.json`: the interface for programs, and `/docs`: the same for people.

use axum::{Router, middleware};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, OpenApi as Document, Ref, ResponseBuilder,
        path::Operation,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::SwaggerUi;

use super::{
    auth::{KEY_HEADER, Scope},
    error::{ErrorBody, ErrorType},
    events, headers, health, listeners, recommendations, similar, status,
};

/// The names of the two ways to send a key.
const BEARER: &str = "bearer";
const HEADER: &str = "header";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "duet serve",
        description = "Recommendations of artists: lists at log-in, live events, similar artists. Every error is \
                       {\"error\": sentence, \"error_type\": type}."
    ),
    paths(
        recommendations::get_recommendations,
        recommendations::post_recommendations,
        similar::similar_artists,
        events::post_events,
        status::get_status,
        listeners::get_listeners,
        health::healthz,
        health::readyz,
        health::metrics,
    ),
    components(schemas(ErrorBody, ErrorType)),
    modifiers(&Keys, &CommonErrors),
    tags(
        (name = "lists", description = "What listeners are shown"),
        (name = "events", description = "What they did"),
        (name = "operation", description = "The service itself"),
    )
)]
struct Api;

/// The two ways to send a key, for every route that may need one.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let header = ApiKey::Header(ApiKeyValue::new(KEY_HEADER));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
        components.add_security_scheme(HEADER, SecurityScheme::ApiKey(header));
        for (path, operation) in operations(document) {
            if Scope::of_route(path).is_some() {
                let either = [BEARER, HEADER].map(|name| SecurityRequirement::new(name, [] as [&str; 0]));
                // Or none, where no keys are configured.
                operation.security = Some(either.into_iter().chain([SecurityRequirement::default()]).collect());
            }
        }
    }
}

/// Errors that the gate may give on every route behind it.
struct CommonErrors;

impl Modify for CommonErrors {
    fn modify(&self, document: &mut Document) {
        let common = [
            ("400", "Something is wrong with the request"),
            ("401", "No key, or none that is known"),
            ("403", "The key may not do this, or not for this listener"),
            ("413", "The body is too long"),
            ("429", "The key has used up its rate; see Retry-After"),
            ("500", "A fault of the service"),
            ("503", "More requests than can be answered now; see Retry-After"),
        ];
        for (path, operation) in operations(document) {
            if Scope::of_route(path).is_none() {
                continue;
            }
            for (code, description) in common {
                operation.responses.responses.entry(code.to_owned()).or_insert_with(|| {
                    let schema = Content::new(Some(Ref::from_schema_name("ErrorBody")));
                    ResponseBuilder::new().description(description).content("application/json", schema).into()
                });
            }
        }
    }
}

fn operations(document: &mut Document) -> impl Iterator<Item = (&str, &mut Operation)> {
    document.paths.paths.iter_mut().flat_map(|(path, item)| {
        let methods = [item.get.as_mut(), item.post.as_mut()];
        methods.into_iter().flatten().map(move |operation| (path.as_str(), operation))
    })
}

/// The interface as an OpenAPI document.
pub fn document() -> Document {
    Api::openapi()
}

/// The document and the page that shows it.
pub(crate) fn routes() -> Router {
    let page = Router::from(SwaggerUi::new("/docs").url("/openapi.json", document()));
    page.layer(middleware::map_response(headers::docs_policy))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::{Request, StatusCode},
        response::Response,
    };
    use tower::ServiceExt;

    use super::*;

    async fn ask(path: &str) -> Response {
        routes().oneshot(Request::builder().uri(path).body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn every_route_is_described_with_its_errors_and_keys() {
        let body = to_bytes(ask("/openapi.json").await.into_body(), usize::MAX).await.unwrap();
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let list = &document["paths"]["/v1/users/{id}/recommendations"]["get"];
        for code in ["200", "400", "401", "403", "429", "500", "503"] {
            assert!(list["responses"][code].is_object(), "{code}");
        }
        assert_eq!(list["security"].as_array().unwrap().len(), 3);
        assert!(document["paths"]["/healthz"]["get"]["security"].is_null());
        for (path, method) in [
            ("/v1/recommendations", "post"),
            ("/v1/events", "post"),
            ("/v1/artists/{id}/similar", "get"),
            ("/v1/status", "get"),
            ("/v1/listeners", "get"),
            ("/metrics", "get"),
            ("/readyz", "get"),
        ] {
            assert!(document["paths"][path][method].is_object(), "{path}");
        }
        assert_eq!(document["components"]["securitySchemes"][HEADER]["name"], KEY_HEADER);
        assert!(document["components"]["schemas"]["ErrorBody"].is_object());
    }

    #[tokio::test]
    async fn the_page_is_compiled_in() {
        let page = ask("/docs/").await;
        assert_eq!(page.status(), StatusCode::OK);
        assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("style-src"));
        for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
            assert_eq!(ask(&format!("/docs/{file}")).await.status(), StatusCode::OK, "{file}");
        }
        assert!(ask("/docs").await.status().is_redirection());
    }
}
