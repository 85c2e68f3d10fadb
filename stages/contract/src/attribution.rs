//! Where text comes from, and what its licence asks for.
use serde::{Deserialize, Serialize};

/// A source of text, with its licence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attribution {
    /// Its name.
    pub name: String,
    /// Where it was obtained.
    pub url: String,
    /// Its licence.
    pub licence: String,
    /// Who has to be credited, and how.
    pub attribution: String,
    /// The language of the text, as an ISO 639 code, if it is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
    /// Whether `name` or `licence` contains a path of this machine, which says nothing elsewhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}
