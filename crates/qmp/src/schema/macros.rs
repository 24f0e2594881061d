//! The macros that declare types: fields once, for parsing, writing and describing.

/// A struct whose fields are the members of an object.
///
/// ```
/// qmp::structure! {
///     /// Arguments of `block-export-del`.
///     pub struct Delete {
///         /// Which export.
///         "id" => id: String,
///         /// How long to wait.
///         "x-wait" ["unstable"] => wait: Option<u32>,
///     }
/// }
/// let arguments = qmp::serde_json::Map::from_iter([("id".to_owned(), "e0".into())]);
/// let delete: Delete = qmp::schema::parse(arguments, qmp::schema::Form::Json).unwrap();
/// assert_eq!((delete.id.as_str(), delete.wait), ("e0", None));
/// ```
#[macro_export]
macro_rules! structure {
    ($(#[$attr:meta])* $vis:vis struct $name:ident {
        $($(#[$field_attr:meta])* $wire:literal $([$($feature:literal),*])? => $field:ident : $type:ty,)*
    }) => {
        $(#[$attr])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[$field_attr])* pub $field: $type,)*
        }

        impl $crate::schema::Type for $name {
            fn describe(schema: &mut $crate::schema::Builder) -> String {
                schema.object::<Self>()
            }
            fn parse(given: $crate::schema::Given) -> ::std::result::Result<Self, $crate::schema::Refusal> {
                $crate::schema::parse_object(given)
            }
            fn show(&self) -> $crate::serde_json::Value {
                $crate::schema::show_object(self)
            }
        }

        impl $crate::schema::Object for $name {
            fn members(schema: &mut $crate::schema::Builder) -> Vec<$crate::schema::Member> {
                vec![$($crate::schema::Member {
                    name: $wire,
                    type_name: <$type as $crate::schema::Field>::describe(schema),
                    optional: <$type as $crate::schema::Field>::OPTIONAL,
                    features: &[$($($feature),*)?],
                }),*]
            }
            fn take(from: &mut $crate::schema::Members) -> ::std::result::Result<Self, $crate::schema::Refusal> {
                Ok(Self { $($field: <$type as $crate::schema::Field>::take(from, $wire)?,)* })
            }
            fn put(&self, into: &mut $crate::serde_json::Map<String, $crate::serde_json::Value>) {
                $($crate::schema::Field::put(&self.$field, $wire, into);)*
            }
        }
    };
}

/// An enum whose variants are words.
///
/// ```
/// qmp::enumeration! {
///     /// How an export ends.
///     pub enum Mode {
///         /// Not while it has clients.
///         Safe = "safe",
///         /// With its clients.
///         Hard = "hard",
///     }
/// }
/// assert_eq!(Mode::Hard.word(), "hard");
/// ```
#[macro_export]
macro_rules! enumeration {
    ($(#[$attr:meta])* $vis:vis enum $name:ident {
        $($(#[$variant_attr:meta])* $variant:ident = $word:literal,)*
    }) => {
        $(#[$attr])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($(#[$variant_attr])* $variant,)* }

        impl $name {
            /// On the wire.
            $vis fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl $crate::schema::Type for $name {
            fn describe(schema: &mut $crate::schema::Builder) -> String {
                schema.enumeration::<Self>(&[$($word),*])
            }
            fn parse(given: $crate::schema::Given) -> ::std::result::Result<Self, $crate::schema::Refusal> {
                match given.value().as_str() {
                    $(Some($word) => Ok(Self::$variant),)*
                    Some(word) => Err(given.unaccepted(word)),
                    None => Err(given.mistyped("string")),
                }
            }
            fn show(&self) -> $crate::serde_json::Value {
                self.word().into()
            }
        }
    };
}

/// An enum whose variants are kinds of an object, told apart by a tag; members that all kinds have lie in `base`,
/// whose type is [`Nothing`](crate::schema::Nothing) where there are none. A struct of both is declared along.
///
/// ```
/// use qmp::schema::Nothing;
/// qmp::structure! { #[doc = "A path."] pub struct Path { #[doc = "It."] "path" => path: String, } }
/// qmp::union! {
///     /// An address.
///     pub struct Address {
///         base: Nothing,
///         /// Its kinds.
///         pub enum AddressKind by "type" {
///             /// A unix socket.
///             Unix(Path) = "unix",
///             /// None.
///             Nowhere(Nothing) = "nowhere",
///         }
///     }
/// }
/// ```
#[macro_export]
macro_rules! union {
    ($(#[$attr:meta])* $vis:vis struct $name:ident {
        base: $base:ty,
        $(#[$kind_attr:meta])* $kind_vis:vis enum $kind:ident by $tag:literal {
            $($(#[$variant_attr:meta])* $variant:ident ( $type:ty ) = $word:literal,)*
        }
    }) => {
        $(#[$attr])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            /// What all kinds have.
            pub base: $base,
            /// Which kind it is.
            pub kind: $kind,
        }

        $(#[$kind_attr])*
        #[derive(Clone, Debug, PartialEq)]
        $kind_vis enum $kind { $($(#[$variant_attr])* $variant($type),)* }

        impl $crate::schema::Type for $name {
            fn describe(schema: &mut $crate::schema::Builder) -> String {
                schema.object::<Self>()
            }
            fn parse(given: $crate::schema::Given) -> ::std::result::Result<Self, $crate::schema::Refusal> {
                $crate::schema::parse_object(given)
            }
            fn show(&self) -> $crate::serde_json::Value {
                $crate::schema::show_object(self)
            }
        }

        impl $crate::schema::Object for $name {
            fn members(schema: &mut $crate::schema::Builder) -> Vec<$crate::schema::Member> {
                let tag = $crate::schema::Member {
                    name: $tag,
                    type_name: schema.enumeration::<$kind>(&[$($word),*]),
                    optional: false,
                    features: &[],
                };
                let mut members = <$base as $crate::schema::Object>::members(schema);
                members.insert(0, tag);
                members
            }
            fn variants(
                schema: &mut $crate::schema::Builder,
            ) -> Option<(&'static str, Vec<(&'static str, String)>)> {
                Some(($tag, vec![$(($word, <$type as $crate::schema::Type>::describe(schema))),*]))
            }
            fn take(from: &mut $crate::schema::Members) -> ::std::result::Result<Self, $crate::schema::Refusal> {
                let tag = from.required($tag)?;
                let Some(word) = tag.value().as_str().map(str::to_owned) else {
                    return Err(tag.mistyped("string"));
                };
                if ![$($word),*].contains(&word.as_str()) {
                    return Err(tag.unaccepted(&word));
                }
                let base = <$base as $crate::schema::Object>::take(from)?;
                let kind = match word.as_str() {
                    $($word => $kind::$variant(<$type as $crate::schema::Object>::take(from)?),)*
                    other => return Err(tag.unaccepted(other)),
                };
                Ok(Self { base, kind })
            }
            fn put(&self, into: &mut $crate::serde_json::Map<String, $crate::serde_json::Value>) {
                match &self.kind {
                    $($kind::$variant(inner) => {
                        into.insert($tag.to_owned(), $word.into());
                        $crate::schema::Object::put(&self.base, into);
                        $crate::schema::Object::put(inner, into);
                    })*
                }
            }
        }
    };
}

/// An enum of types that differ in what JSON they are: `object`, `string`, `null`. The text is its name in errors.
///
/// ```
/// qmp::structure! { #[doc = "More."] pub struct More { #[doc = "A name."] "name" => name: String, } }
/// qmp::alternate! {
///     /// A name, or more.
///     pub enum Either: "BlockDirtyBitmapOrStr" {
///         /// A name.
///         Name(String) = string,
///         /// More.
///         More(More) = object,
///     }
/// }
/// ```
#[macro_export]
macro_rules! alternate {
    ($(#[$attr:meta])* $vis:vis enum $name:ident : $shown:literal {
        $($(#[$variant_attr:meta])* $variant:ident ( $type:ty ) = $json:ident,)*
    }) => {
        $(#[$attr])*
        #[derive(Clone, Debug, PartialEq)]
        $vis enum $name { $($(#[$variant_attr])* $variant($type),)* }

        impl $crate::schema::Type for $name {
            fn describe(schema: &mut $crate::schema::Builder) -> String {
                schema.alternate::<Self>(|schema| {
                    vec![$(<$type as $crate::schema::Type>::describe(schema)),*]
                })
            }
            fn parse(given: $crate::schema::Given) -> ::std::result::Result<Self, $crate::schema::Refusal> {
                $(if $crate::alternate!(@is $json, given.value()) {
                    return <$type as $crate::schema::Type>::parse(given).map(Self::$variant);
                })*
                Err(given.mistyped($shown))
            }
            fn show(&self) -> $crate::serde_json::Value {
                match self { $(Self::$variant(inner) => $crate::schema::Type::show(inner),)* }
            }
        }
    };
    (@is object, $value:expr) => { $value.is_object() };
    (@is string, $value:expr) => { $value.is_string() };
    (@is null, $value:expr) => { $value.is_null() };
}
