//! The registry of objects.
//!
//! Invariant: references are handed out under the lock only, so that an object that only the registry holds is one
//! that nobody uses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{BlockError, ErrorKind, Result};
use io::World;

use crate::iothread::IoThread;
use crate::kinds::{Object, ObjectOptions};
use crate::secret::Secret;
use crate::throttle_group::ThrottleGroup;

/// The objects of a process.
#[derive(Default, Debug)]
pub struct Objects {
    list: Mutex<BTreeMap<String, Object>>,
}

impl Objects {
    /// Makes an object and adds it (`object-add`). Called on an I/O thread.
    pub async fn create(&self, id: &str, options: ObjectOptions, world: &dyn World) -> Result<()> {
        self.check(&self.lock(), id)?;
        let object = options.open(id, world).await?;
        self.add(id, object)
    }

    /// Adds an object that was made elsewhere.
    pub fn add(&self, id: &str, object: Object) -> Result<()> {
        let mut list = self.lock();
        self.check(&list, id)?;
        list.insert(id.to_owned(), object);
        Ok(())
    }

    /// Deletes an object that nobody uses (`object-del`).
    pub fn delete(&self, id: &str) -> Result<()> {
        let mut list = self.lock();
        let Some(object) = list.get(id) else { return Err(not_found(format!("object '{id}' not found"))) };
        if object.is_in_use() {
            let context = format!("object '{id}' is in use, can not be deleted");
            return Err(BlockError::new(ErrorKind::Busy, context));
        }
        let object = list.remove(id);
        // Ending a thread waits for it: not under the lock.
        drop(list);
        drop(object);
        Ok(())
    }

    /// All objects: name and kind, by name.
    pub fn list(&self) -> Vec<(String, &'static str)> {
        self.lock().iter().map(|(id, object)| (id.clone(), object.kind())).collect()
    }

    /// The secret `id`.
    pub fn secret(&self, id: &str) -> Result<Arc<Secret>> {
        match self.lock().get(id) {
            Some(Object::Secret(secret)) => Ok(secret.clone()),
            _ => Err(not_found(format!("No secret with id '{id}'"))),
        }
    }

    /// The I/O thread `id`.
    pub fn iothread(&self, id: &str) -> Result<Arc<IoThread>> {
        match self.lock().get(id) {
            Some(Object::IoThread(thread)) => Ok(thread.clone()),
            _ => Err(not_found(format!("iothread \"{id}\" not found"))),
        }
    }

    /// The throttle group `id`.
    pub fn throttle_group(&self, id: &str) -> Result<Arc<ThrottleGroup>> {
        match self.lock().get(id) {
            Some(Object::ThrottleGroup(group)) => Ok(group.clone()),
            _ => Err(not_found(format!("Throttle group '{id}' does not exist"))),
        }
    }

    fn check(&self, list: &BTreeMap<String, Object>, id: &str) -> Result<()> {
        if !is_identifier(id) {
            return Err(BlockError::new(ErrorKind::Invalid, "Parameter 'id' expects an identifier"));
        }
        if list.contains_key(id) {
            let context = format!("attempt to add duplicate property '{id}' to object (type 'container')");
            return Err(BlockError::new(ErrorKind::Exists, context));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        // Whole entries come and go.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A letter, then letters, digits, `-`, `.` and `_`.
fn is_identifier(id: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(rest)
}

fn not_found(context: String) -> BlockError {
    BlockError::new(ErrorKind::NotFound, context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sim::{Options, SimWorld};

    async fn create(objects: &Objects, kind: &str, id: &str, options: Value) -> Option<String> {
        let world = SimWorld::new(0, Options::calm());
        let options = ObjectOptions::read(kind, options).map_err(|e| e.to_string());
        match options {
            Ok(options) => objects.create(id, options, &world).await.err().map(|e| e.to_string()),
            Err(error) => Some(error),
        }
    }

    #[test]
    fn names_are_unique_over_all_kinds_and_well_formed() {
        let world = SimWorld::new(0, Options::calm());
        world.run(async {
            let objects = Objects::default();
            assert_eq!(create(&objects, "throttle-group", "t-0.a_b", json!({})).await, None);
            let taken = "attempt to add duplicate property 't-0.a_b' to object (type 'container')";
            assert_eq!(create(&objects, "secret", "t-0.a_b", json!({"data": "x"})).await.unwrap(), taken);
            for id in ["", "0t", "-t", "a b", "ä", "a/b"] {
                let refused = create(&objects, "secret", id, json!({"data": "x"})).await;
                assert_eq!(refused.unwrap(), "Parameter 'id' expects an identifier", "{id}");
            }
            let unknown = create(&objects, "rng", "r", json!({})).await.unwrap();
            assert_eq!(unknown, "Parameter 'qom-type' does not accept value 'rng'");
            assert_eq!(objects.list(), [("t-0.a_b".to_owned(), "throttle-group")]);
        });
    }

    #[test]
    fn what_is_in_use_is_not_deleted() {
        let world = SimWorld::new(0, Options::calm());
        world.run(async {
            let objects = Objects::default();
            assert_eq!(create(&objects, "throttle-group", "tg0", json!({})).await, None);
            let used = objects.throttle_group("tg0").unwrap();
            let refused = objects.delete("tg0").unwrap_err();
            assert_eq!(refused.to_string(), "object 'tg0' is in use, can not be deleted");
            drop(used);
            objects.delete("tg0").unwrap();
            assert_eq!(objects.delete("tg0").unwrap_err().to_string(), "object 'tg0' not found");
            let gone = objects.throttle_group("tg0").unwrap_err();
            assert_eq!(gone.to_string(), "Throttle group 'tg0' does not exist");
        });
    }

    #[test]
    fn a_kind_is_not_taken_for_another() {
        let world = SimWorld::new(0, Options::calm());
        world.run(async {
            let objects = Objects::default();
            assert_eq!(create(&objects, "secret", "s", json!({"data": "x"})).await, None);
            assert_eq!(objects.iothread("s").unwrap_err().to_string(), "iothread \"s\" not found");
            assert!(objects.throttle_group("s").is_err() && objects.secret("s").is_ok());
            assert_eq!(objects.secret("t").unwrap_err().to_string(), "No secret with id 't'");
        });
    }

    #[test]
    fn an_iothread_runs_tasks_until_it_is_deleted() {
        let world = SimWorld::new(0, Options::calm());
        world.run(async {
            let objects = Objects::default();
            let options = ObjectOptions::read("iothread", json!({"poll-max-ns": 0})).unwrap();
            objects.create("io0", options, &world).await.unwrap();
            let thread = objects.iothread("io0").unwrap();
            let (done, ready) = io::sync::oneshot::channel();
            thread.thread().run(Box::new(|| Box::pin(async { done.send(io::thread_index()).unwrap() })));
            assert_ne!(ready.await.unwrap(), io::thread_index());
            let bare = thread.thread().clone();
            drop(thread);
            objects.delete("io0").unwrap();
            let (never, dropped) = io::sync::oneshot::channel::<()>();
            bare.run(Box::new(|| Box::pin(async { never.send(()).unwrap() })));
            assert!(dropped.await.is_err(), "it ran after it was deleted");
        });
    }
}
