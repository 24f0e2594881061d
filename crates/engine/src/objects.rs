//! Verbs on objects: add, delete, change the limits of a throttle group.

use block::{BlockError, ErrorKind, Result};
use driver::options;
use object::ObjectOptions;
use serde_json::{Map, Value};

use crate::engine::Engine;

impl Engine {
    /// Makes an object from `qom-type`, `id` and what its kind takes (`object-add`).
    pub async fn add_object(&self, mut options: Map<String, Value>) -> Result<()> {
        let kind = take(&mut options, "qom-type")?;
        ObjectOptions::check_kind(&kind)?;
        let id = take(&mut options, "id")?;
        let options = options::parse_with(options, |given| ObjectOptions::read(&kind, given))?;
        self.objects.create(&id, options, &*self.world).await
    }

    /// Deletes an object that nobody uses (`object-del`).
    pub fn delete_object(&self, id: &str) -> Result<()> {
        self.objects.delete(id)
    }
}

fn take(options: &mut Map<String, Value>, key: &str) -> Result<String> {
    match options.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(invalid(format!("Invalid parameter type for '{key}', expected: string"))),
        None => Err(invalid(format!("Parameter '{key}' is missing"))),
    }
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
