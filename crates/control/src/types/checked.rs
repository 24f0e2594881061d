//! Arguments that a lower room reads by itself: checked and described by a type, and kept as they were given.

/// `$outer` is a map of arguments that `$inner` describes and has parsed once.
macro_rules! checked {
    ($outer:ident, $inner:ty) => {
        impl Type for $outer {
            fn describe(schema: &mut Builder) -> String {
                <$inner as Type>::describe(schema)
            }
            fn parse(given: Given) -> Result<Self, Refusal> {
                let value = given.value().clone();
                <$inner as Type>::parse(given)?;
                match value {
                    Value::Object(map) => Ok(Self(map)),
                    // It was parsed, so it is an object.
                    _ => Ok(Self(Map::new())),
                }
            }
            fn show(&self) -> Value {
                Value::Object(self.0.clone())
            }
        }

        impl Object for $outer {
            fn members(schema: &mut Builder) -> Vec<Member> {
                <$inner as Object>::members(schema)
            }
            fn variants(schema: &mut Builder) -> Option<(&'static str, Vec<(&'static str, String)>)> {
                <$inner as Object>::variants(schema)
            }
            fn take(from: &mut Members) -> Result<Self, Refusal> {
                let inner = <$inner as Object>::take(from)?;
                let mut map = Map::new();
                inner.put(&mut map);
                Ok(Self(map))
            }
            fn put(&self, into: &mut Map<String, Value>) {
                into.extend(self.0.clone());
            }
        }
    };
}

pub(crate) use checked;
