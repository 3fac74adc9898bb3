//! Why a request is not answered, in the JSON form of OpenAI's API.

use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind};

/// A refused request, or one that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    /// What is wrong, and what to do.
    pub message: String,
    /// The parameter that it is about.
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// A request that cannot be understood, or asks for what there is not.
    pub(super) fn request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A parameter that cannot be what it is.
    pub(super) fn param(name: &str, message: impl Into<String>) -> Self {
        Self { param: Some(name.to_owned()), ..Self::request(message) }
    }

    pub(super) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// A model that is not here.
    pub(super) fn no_model(name: &str, there: &[String]) -> Self {
        let message = format!("the model {name:?} does not exist; there are: {}", there.join(", "));
        Self { param: Some("model".to_owned()), ..Self::new(StatusCode::NOT_FOUND, message).with_code("model_not_found") }
    }

    pub(super) fn status(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, message)
    }

    /// What took longer than it may.
    pub(super) fn too_long() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "the request took longer than the server allows").with_code("timeout")
    }

    /// The JSON of it.
    pub(super) fn json(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

/// Where files of the server lie is nobody's business who asks; the server's own log has it.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        tracing::warn!("a request failed: {error}");
        let status = match error.kind() {
            ErrorKind::Runtime(_) | ErrorKind::Io(_) | ErrorKind::Diverged(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Self::new(status, format!("{}{hint}", error.kind()))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.json())).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
