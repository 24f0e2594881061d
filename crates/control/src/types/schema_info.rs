//! Entries of the schema, as types of the schema.

use serde_json::Value;

qmp::union! {
    /// An entry.
    pub struct SchemaInfo {
        base: EntryBase,
        /// Sorts of entries.
        pub enum Entry by "meta-type" {
            /// A type that needs no description.
            Builtin(BuiltinEntry) = "builtin",
            /// Words.
            Enum(EnumEntry) = "enum",
            /// A list.
            Array(ArrayEntry) = "array",
            /// An object.
            Object(ObjectEntry) = "object",
            /// One of several types.
            Alternate(AlternateEntry) = "alternate",
            /// A command.
            Command(CommandEntry) = "command",
            /// An event.
            Event(EventEntry) = "event",
        }
    }
}

qmp::structure! {
    /// What all entries have.
    pub struct EntryBase {
        /// What it is called by other entries; only those of commands, events and builtin types mean something.
        "name" => name: String,
        /// What is special about it.
        "features" => features: Option<Vec<String>>,
    }
}

qmp::enumeration! {
    /// What JSON a builtin type is.
    pub enum JsonType {
        /// Text.
        String = "string",
        /// A number.
        Number = "number",
        /// A whole number.
        Int = "int",
        /// A switch.
        Boolean = "boolean",
        /// Null.
        Null = "null",
        /// An object.
        Object = "object",
        /// A list.
        Array = "array",
        /// Anything.
        Value = "value",
    }
}

qmp::structure! {
    /// A builtin type.
    pub struct BuiltinEntry {
        /// What JSON it is.
        "json-type" => json_type: JsonType,
    }
}

qmp::structure! {
    /// A word.
    pub struct Word {
        /// It.
        "name" => name: String,
        /// What is special about it.
        "features" => features: Option<Vec<String>>,
    }
}

qmp::structure! {
    /// An enumeration.
    pub struct EnumEntry {
        /// Its words.
        "members" => members: Vec<Word>,
        /// The same, plainly.
        "values" ["deprecated"] => values: Vec<String>,
    }
}

qmp::structure! {
    /// A list.
    pub struct ArrayEntry {
        /// Type of its items.
        "element-type" => element_type: String,
    }
}

qmp::structure! {
    /// A member of an object.
    pub struct MemberEntry {
        /// Its name.
        "name" => name: String,
        /// Its type.
        "type" => type_name: String,
        /// There, and null, when it may be left out.
        "default" => default: Option<Value>,
        /// What is special about it.
        "features" => features: Option<Vec<String>>,
    }
}

qmp::structure! {
    /// A variant of an object.
    pub struct VariantEntry {
        /// The value of the tag.
        "case" => case: String,
        /// Type of the members that it adds.
        "type" => type_name: String,
    }
}

qmp::structure! {
    /// An object.
    pub struct ObjectEntry {
        /// Members that it always has.
        "members" => members: Vec<MemberEntry>,
        /// The member that tells the variants apart.
        "tag" => tag: Option<String>,
        /// Its variants.
        "variants" => variants: Option<Vec<VariantEntry>>,
    }
}

qmp::structure! {
    /// A type of an alternate.
    pub struct AlternateMember {
        /// It.
        "type" => type_name: String,
    }
}

qmp::structure! {
    /// An alternate.
    pub struct AlternateEntry {
        /// What it may be.
        "members" => members: Vec<AlternateMember>,
    }
}

qmp::structure! {
    /// A command.
    pub struct CommandEntry {
        /// Type of its arguments.
        "arg-type" => arguments: String,
        /// Type of its answer.
        "ret-type" => answer: String,
        /// Whether it may come out of band.
        "allow-oob" => allow_oob: Option<bool>,
    }
}

qmp::structure! {
    /// An event.
    pub struct EventEntry {
        /// Type of its data.
        "arg-type" => data: String,
    }
}
