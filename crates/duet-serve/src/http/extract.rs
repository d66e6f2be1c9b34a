//! What a path and a query say; where they can't be read, an error in our own form.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};

use super::error::ApiError;

/// The one id in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathId(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(id)| Self(id)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}

/// The pairs of a query, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryPairs(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for QueryPairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        query.map(|Query(pairs)| Self(pairs)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}

/// The pairs of a query in which nothing is escaped, as [`QueryPairs`] has them.
pub(crate) fn plain_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Gives every pair of a query to `take`, which says whether it knows the key.
///
/// # Errors
/// [`ApiError::bad_request`] listing the `valid` keys where it does not; those of `take`.
pub(crate) fn read_pairs<Text: AsRef<str>>(
    pairs: impl IntoIterator<Item = (Text, Text)>,
    valid: &[&str],
    mut take: impl FnMut(&str, Text) -> Result<bool, ApiError>,
) -> Result<(), ApiError> {
    for (key, value) in pairs {
        let key = key.as_ref();
        if !take(key, value)? {
            let valid = valid.join(", ");
            return Err(ApiError::bad_request(format!("unknown query key {key:?}; valid: {valid}")));
        }
    }
    Ok(())
}

/// A value of a query as a number.
///
/// # Errors
/// [`ApiError::bad_request`] naming the key.
pub(crate) fn whole_number(key: &str, value: &str) -> Result<usize, ApiError> {
    value.parse().map_err(|_| ApiError::bad_request(format!("{key}: {value:?} is not a whole number")))
}

/// A number, if it is at least 1 and at most `most`.
///
/// # Errors
/// [`ApiError::bad_request`] naming the key.
pub(crate) fn up_to(key: &str, number: usize, most: usize) -> Result<usize, ApiError> {
    if (1..=most).contains(&number) {
        return Ok(number);
    }
    Err(ApiError::bad_request(format!("{key}: {number} must be from 1 to {most}")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::{Router, body::Body, http::Request, routing::get};
    use tower::ServiceExt;

    use super::*;

    async fn ask(uri: &str) -> (u16, String) {
        let said = |PathId(id): PathId, QueryPairs(pairs): QueryPairs| async move { format!("{id} {pairs:?}") };
        let routes = Router::<()>::new().route("/{id}", get(said));
        let answer = routes.oneshot(Request::builder().uri(uri).body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn paths_and_queries_are_read_or_refused_in_our_form() {
        assert_eq!(ask("/a%20b?k=1&k=%C3%A9").await, (200, r#"a b [("k", "1"), ("k", "é")]"#.to_owned()));
        assert_eq!(ask("/a").await, (200, "a []".to_owned()));
        let (status, body) = ask("/%FF").await;
        assert!(status == 400 && body.contains(r#""error_type":"bad_request""#), "{body}");
    }

    #[tokio::test]
    async fn a_plain_query_is_read_as_any_other() {
        for query in ["", "k=1", "k=1&&filter=genre=x&", "&k", "=1&k=", "a:b~c=d/e?f"] {
            let pairs: Vec<(&str, &str)> = plain_pairs(query).collect();
            assert_eq!(ask(&format!("/a?{query}")).await, (200, format!("a {pairs:?}")), "{query}");
        }
    }

    #[test]
    fn keys_and_numbers_are_named() {
        let mut k = 0;
        let error = read_pairs([("k", "5"), ("what", "1")], &["k", "kind"], |key, value| {
            if key == "k" {
                k = whole_number(key, value)?;
            }
            Ok(key == "k")
        })
        .unwrap_err();
        assert_eq!((k, error.message()), (5, "unknown query key \"what\"; valid: k, kind"));
        assert_eq!(whole_number("k", "-5").unwrap_err().message(), "k: \"-5\" is not a whole number");
        assert_eq!((up_to("k", 1, 3).unwrap(), up_to("k", 3, 3).unwrap()), (1, 3));
        for number in [0, 4] {
            assert_eq!(up_to("k", number, 3).unwrap_err().message(), format!("k: {number} must be from 1 to 3"));
        }
    }
}
