//! A container of a test's own in Azurite, the emulator of Azure's blob storage.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use duet_data::store::Location;
use object_store::{
    ClientOptions,
    azure::{AzureAccessKey, AzureAuthorizer, AzureCredential},
    client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector},
};

use crate::services;

/// The account that every Azurite has, and its key, which is no secret.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A container.
pub(crate) struct Container {
    endpoint: String,
    name: String,
}

impl Container {
    /// Makes one, if there is an Azurite.
    pub(crate) async fn create() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let endpoint = services::azurite()?;
        let name = format!("duet-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let container = Self { endpoint, name };
        container.ask("PUT").await;
        Some(container)
    }

    /// A place in the container.
    pub(crate) fn location(&self, prefix: &str, patience: Duration) -> Location {
        let settings = [("azure_storage_use_emulator", "true")];
        Location::parse_with(&format!("az://{}/{prefix}", self.name), &settings, patience).unwrap()
    }

    /// Removes it with everything in it.
    pub(crate) async fn remove(self) {
        self.ask("DELETE").await;
    }

    /// A request about the container itself, which object stores don't make.
    async fn ask(&self, method: &str) {
        let Self { endpoint, name } = self;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = format!("{endpoint}/{ACCOUNT}/{name}?restype=container").parse().unwrap();
        request.headers_mut().insert("content-length", "0".parse().unwrap());
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).unwrap());
        AzureAuthorizer::new(&credential, ACCOUNT).authorize(&mut request);
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let answer = client.execute(request).await.unwrap();
        assert!(answer.status().is_success(), "{method} of container {name}: {}", answer.status());
    }
}
