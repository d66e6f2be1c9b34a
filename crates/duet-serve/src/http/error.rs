//! What an answer looks like that is none: `{"error": "<sentence>", "error_type": "<type>"}`.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use duet_core::Error;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whose fault it is, and what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// 400: the request can't be understood.
    BadRequest,
    /// 401: no key, or none that is known.
    Unauthorized,
    /// 403: the key may not do this.
    Forbidden,
    /// 404: no such route or artist.
    NotFound,
    /// 405: the route has other methods.
    MethodNotAllowed,
    /// 413: the body is longer than the limit.
    TooLarge,
    /// 429: the key has used up its rate; `Retry-After` says when to come back.
    RateLimited,
    /// 503: more work than the service takes on; `Retry-After` says when to come back.
    Overloaded,
    /// 500: a fault of the service.
    Internal,
}

impl ErrorType {
    /// The status code that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The type of an answer that says no more than its status.
    pub(crate) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            StatusCode::FORBIDDEN => Self::Forbidden,
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited,
            StatusCode::SERVICE_UNAVAILABLE => Self::Overloaded,
            status if status.is_server_error() => Self::Internal,
            _ => Self::BadRequest,
        }
    }
}

/// The body of every error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong and what would be valid, in a sentence.
    pub error: Cow<'static, str>,
    /// The kind of error, for programs.
    pub error_type: ErrorType,
}

/// An error on its way to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    error_type: ErrorType,
    message: Cow<'static, str>,
    retry_after_s: Option<u64>,
}

/// The whole body of a shed request: written out, for there is no time for more when requests are shed.
const OVERLOADED: &str =
    r#"{"error":"the service has more requests than it can answer now; try again later","error_type":"overloaded"}"#;
/// What [`ApiError::overloaded`] says.
const OVERLOADED_SENTENCE: &str = "the service has more requests than it can answer now; try again later";
/// Seconds after which a shed request may come back.
const SHED_RETRY_S: u64 = 1;

impl ApiError {
    fn new(error_type: ErrorType, message: impl Into<Cow<'static, str>>) -> Self {
        Self { error_type, message: message.into(), retry_after_s: None }
    }

    /// 400: what is wrong with the request, and what would be valid.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorType::BadRequest, message)
    }

    /// 401: no key, or none that is known.
    pub fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorType::Unauthorized, message)
    }

    /// 403: the key may not do this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorType::Forbidden, message)
    }

    /// 404: no such thing.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorType::NotFound, message)
    }

    /// 405: the route has other methods.
    pub fn method_not_allowed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorType::MethodNotAllowed, message)
    }

    /// 413: longer than the limit.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorType::TooLarge, message)
    }

    /// 429: the key has used up its rate for `retry_after_s` seconds.
    pub fn rate_limited(retry_after_s: u64) -> Self {
        let message = format!("this key has used up its requests a second; try again in {retry_after_s} s");
        Self { retry_after_s: Some(retry_after_s), ..Self::new(ErrorType::RateLimited, message) }
    }

    /// 503: shed. Costs no allocation.
    pub fn overloaded() -> Self {
        let message = Cow::Borrowed(OVERLOADED_SENTENCE);
        Self { error_type: ErrorType::Overloaded, message, retry_after_s: Some(SHED_RETRY_S) }
    }

    /// 503 for another reason than the load: what is being waited for.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after_s: Some(SHED_RETRY_S), ..Self::new(ErrorType::Overloaded, message) }
    }

    /// 500. What went wrong is for the log; the caller is told that something did.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::new(ErrorType::Internal, "the service failed to answer; its log says why")
    }

    /// What an answer with no body of ours says: a status, and perhaps a sentence of a library.
    pub(crate) fn of_status(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorType::of(status), message)
    }

    /// The kind of error.
    pub fn error_type(&self) -> ErrorType {
        self.error_type
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.error_type.status()
    }

    /// The body.
    pub fn body(&self) -> ErrorBody {
        ErrorBody { error: self.message.clone(), error_type: self.error_type }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<Error> for ApiError {
    /// What the libraries call the caller's mistake is one here too; all else is ours.
    fn from(error: Error) -> Self {
        match error {
            Error::Input(message) => Self::bad_request(message),
            other => Self::internal(other),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = match &self.message {
            message if *message == OVERLOADED_SENTENCE => Body::from(OVERLOADED),
            // Two strings are always JSON.
            _ => Body::from(serde_json::to_vec(&self.body()).unwrap_or_default()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    async fn answer(error: ApiError) -> (StatusCode, Option<String>, ErrorBody) {
        let response = error.into_response();
        let retry = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn bodies_are_sentences_with_a_type() {
        let (status, retry, body) = answer(ApiError::bad_request("k must be at least 1")).await;
        assert_eq!((status, retry), (StatusCode::BAD_REQUEST, None));
        assert_eq!((body.error.as_ref(), body.error_type), ("k must be at least 1", ErrorType::BadRequest));
        let (status, retry, body) = answer(ApiError::rate_limited(3)).await;
        assert_eq!((status.as_u16(), retry.as_deref()), (429, Some("3")));
        assert_eq!(body.error_type, ErrorType::RateLimited);
        // The body written out says what the error says.
        let (status, retry, body) = answer(ApiError::overloaded()).await;
        assert_eq!((status.as_u16(), retry.as_deref()), (503, Some("1")));
        assert_eq!(body, ApiError::overloaded().body());
    }

    #[tokio::test]
    async fn faults_of_the_service_are_not_told_to_the_caller() {
        let error = ApiError::from(Error::data("/srv/bundle/vectors", "damaged"));
        let (status, _, body) = answer(error).await;
        assert_eq!(status.as_u16(), 500);
        assert!(!body.error.contains("/srv"), "{}", body.error);
        assert_eq!(ApiError::from(Error::input("unknown column")).status().as_u16(), 400);
    }
}
