//! Object stores by address, opened when a plan first names one.

use std::sync::Arc;

use datafusion::{
    common::{DataFusionError, Result},
    execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry},
};
use duet_data::store::Location;
use object_store::ObjectStore;
use url::{Position, Url};

/// Opens stores as every command of duet does: credentials, endpoint and region come from the variables of this process.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    open: DefaultObjectStoreRegistry,
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.open.register_store(url, store)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.open.deregister_store(url)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        if let Ok(store) = self.open.get_store(url) {
            return Ok(store);
        }
        let location = Location::parse(&url[..Position::BeforePath])
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        self.open.register_store(url, Arc::clone(&location.store));
        Ok(location.store)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_opened_by_its_address() {
        let stores = Stores::default();
        for address in ["file:///tmp/zone/a.parquet", "gs://bucket/zone/a.parquet"] {
            let url = Url::parse(address).unwrap();
            let store = stores.get_store(&url).unwrap();
            assert!(Arc::ptr_eq(&store, &stores.get_store(&url).unwrap()), "{address}: opened once");
        }
        let error = stores.get_store(&Url::parse("ftp://host/zone").unwrap()).unwrap_err();
        assert!(error.to_string().contains("ftp"), "{error}");
    }
}
