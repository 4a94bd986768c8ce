//! Names of states and kinds, as rows and logs spell them.

/// Gives an enum without fields its names: the same that serde writes, in one table.
macro_rules! names {
    ($type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name, snake_case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// The value of a name.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        mod names_test {
            use super::$type;

            #[test]
            fn names_are_those_of_serde() {
                for value in $type::ALL {
                    let text = serde_json::to_string(value).expect("a name is plain text");
                    assert_eq!(text, format!("\"{}\"", value.as_str()));
                    assert_eq!($type::parse(value.as_str()), Some(*value));
                }
                assert_eq!($type::parse(""), None);
            }
        }
    };
}

pub(crate) use names;
