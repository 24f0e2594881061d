//! What an image may make us open, as long as nobody has said that it is what it looks like.

use engine::partial;
use qcow2::Header;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::words;

/// Fails where an image whose format nobody has given names others: whoever wrote it chose them. `own` are options of
/// the node: with a whole `backing` there nothing that the image says of it counts, nor with a `data-file`.
pub(crate) fn stands_alone(header: &Header, own: &Map<String, Value>) -> Result<()> {
    let backing = header.backing.as_ref().filter(|_| !own.get("backing").is_some_and(is_whole));
    let data = header.data_file.as_ref().filter(|_| !own.contains_key("data-file"));
    let named = match (backing, data.and_then(|data| data.name.as_deref()).filter(|name| !name.is_empty())) {
        (Some(backing), _) => format!("backing file '{}'", words::escaped(&backing.name)),
        (None, Some(data)) => format!("data file '{}'", words::escaped(data)),
        (None, None) => return Ok(()),
    };
    Err(Failure::new(format!(
        "its format was not given, and it looks like qcow2 with {named}, which a guest could have written: say its format (-f qcow2, or -f raw for its bytes)"
    )))
}

fn is_whole(backing: &Value) -> bool {
    match backing {
        Value::Object(given) => partial::is_whole(given),
        _ => true,
    }
}

/// Says that an image does not say the format of its backing file.
pub(crate) fn no_format(image: &str, backing: &str) -> Failure {
    let backing = words::escaped(backing);
    Failure::new(format!(
        "image '{image}' does not say the format of its backing file '{backing}', which is never guessed: store it with 'rebase -u -b {backing} -F FORMAT'"
    ))
}
