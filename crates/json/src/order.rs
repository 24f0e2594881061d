//! The order in which QEMU's dictionaries hand out their members: it shows where options are made a name.
//!
//! They lie in 512 buckets by a hash of their keys; of a bucket the latest comes first.

use serde_json::{Map, Value};

const BUCKETS: u32 = 512;

/// `value` with the members of all objects in that order.
pub fn in_order(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.into_iter().rev().collect();
            members.sort_by_key(|(key, _)| hash(key) % BUCKETS);
            Value::Object(
                members.into_iter().map(|(key, value)| (key, in_order(value))).collect::<Map<_, _>>(),
            )
        }
        Value::Array(list) => Value::Array(list.into_iter().map(in_order).collect()),
        other => other,
    }
}

fn hash(key: &str) -> u32 {
    let start = 0x238F_13AF_u32.wrapping_mul(key.len() as u32);
    let mixed = key
        .bytes()
        .zip(0u32..)
        .fold(start, |value, (byte, at)| value.wrapping_add(u32::from(byte) << (at.wrapping_mul(5) % 24)));
    mixed.wrapping_mul(1_103_515_243).wrapping_add(12345)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::in_order;

    #[test]
    fn members_come_as_qemu_img_prints_them() {
        let file = json!({"filename": "x", "driver": "file"});
        let raw = json!({"file": file, "driver": "raw", "size": "1M", "offset": "64k"});
        let throttled = json!({"driver": "throttle", "file": raw, "throttle-group": "t"});
        let text = crate::to_ascii(&in_order(throttled));
        let wanted = concat!(
            r#"{"throttle-group": "t", "driver": "throttle", "#,
            r#""file": {"offset": "64k", "driver": "raw", "size": "1M", "#,
            r#""file": {"driver": "file", "filename": "x"}}}"#
        );
        assert_eq!(text, wanted);
    }
}
