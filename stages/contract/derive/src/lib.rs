//! `#[derive(StageKeys)]`: the keys of a stage's table, read from its settings struct.
//!
//! The doc comment of a field is the documentation of its key, and the only place where it is documented.
#![forbid(unsafe_code)]

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::{Attribute, Data, DeriveInput, Error, Expr, Field, Fields, Lit, Meta, Result, Token};

/// Implements `contract::StageKeys` for a struct with named fields: one key a field, in their order.
///
/// - The lines of the doc comment are joined by spaces. A field without one does not compile.
/// - `#[serde(rename = "…")]` renames the key too.
/// - `#[key(location)]` and `#[key(failure)]` are for keys that do not affect results: `contract::Effect`.
#[proc_macro_derive(StageKeys, attributes(key))]
pub fn stage_keys(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    let keys = keys(&input).map(|keys| implementation(&input, &keys));
    keys.unwrap_or_else(Error::into_compile_error).into()
}

#[derive(Debug, PartialEq)]
struct Key {
    name: String,
    documentation: String,
    /// A variant of `contract::Effect`.
    effect: &'static str,
}

impl ToTokens for Key {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let Self { name, documentation, effect } = self;
        let effect = format_ident!("{effect}");
        tokens.extend(quote! {
            ::contract::Key { name: #name, documentation: #documentation, effect: ::contract::Effect::#effect }
        });
    }
}

fn implementation(input: &DeriveInput, keys: &[Key]) -> TokenStream {
    let name = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    quote! {
        impl #generics ::contract::StageKeys for #name #arguments #bounds {
            const KEYS: &'static [::contract::Key] = &[#(#keys),*];
        }
    }
}

/// The keys of a struct, or what is wrong with all its fields.
fn keys(input: &DeriveInput) -> Result<Vec<Key>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "StageKeys is derived for structs: a field is a key"));
    };
    let fields = match &data.fields {
        Fields::Named(fields) => &fields.named,
        Fields::Unit => return Ok(Vec::new()),
        Fields::Unnamed(_) => {
            return Err(Error::new_spanned(&data.fields, "StageKeys needs named fields: a field's name is its key"));
        }
    };
    let mut keys = Vec::new();
    let mut wrong: Option<Error> = None;
    for field in fields {
        match key(field) {
            Ok(key) => keys.push(key),
            Err(error) => match &mut wrong {
                Some(all) => all.combine(error),
                None => wrong = Some(error),
            },
        }
    }
    wrong.map_or(Ok(keys), Err)
}

fn key(field: &Field) -> Result<Key> {
    let documentation = documentation(&field.attrs);
    if documentation.is_empty() {
        return Err(Error::new_spanned(field, "a key needs a doc comment: it is the key's only documentation"));
    }
    let name = field.ident.as_ref().map(|ident| ident.unraw().to_string()).unwrap_or_default();
    Ok(Key { name: renamed(&field.attrs)?.unwrap_or(name), documentation, effect: effect(&field.attrs)? })
}

/// The text of a doc comment on one line.
fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => text(&meta.value),
        _ => None,
    });
    let lines: Vec<String> = lines.collect();
    lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The value of a string literal. One that a declarative macro has passed on stands in an invisible group.
fn text(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        Expr::Group(group) => text(&group.expr),
        _ => None,
    }
}

/// The name that `#[serde(rename = "…")]` gives.
fn renamed(attributes: &[Attribute]) -> Result<Option<String>> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        for meta in attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)? {
            match meta {
                Meta::NameValue(meta) if meta.path.is_ident("rename") => return Ok(text(&meta.value)),
                Meta::Path(path) if path.is_ident("flatten") => {
                    return Err(Error::new_spanned(path, "StageKeys cannot see the keys of a flattened field"));
                }
                _ => {}
            }
        }
    }
    Ok(None)
}

/// What `#[key(…)]` says that the key affects.
fn effect(attributes: &[Attribute]) -> Result<&'static str> {
    let mut effect = "Results";
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("key")) {
        attribute.parse_nested_meta(|meta| {
            effect = match () {
                () if meta.path.is_ident("location") => "Location",
                () if meta.path.is_ident("failure") => "Failure",
                () => return Err(meta.error("expected `location` or `failure`; a key affects results if nothing is said")),
            };
            Ok(())
        })?;
    }
    Ok(effect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn key(name: &str, documentation: &str, effect: &'static str) -> Key {
        Key { name: name.into(), documentation: documentation.into(), effect }
    }

    #[test]
    fn a_field_is_a_key_and_its_doc_comment_is_the_documentation() {
        let input: DeriveInput = parse_quote! {
            struct Settings {
                /// Files and folders,
                /// at least one.
                #[key(location)]
                paths: Vec<String>,
                /** Type of the column. */
                #[serde(default, rename = "kind")]
                r#type: String,
                /// What to do.
                #[key(failure)]
                r#in: bool,
            }
        };
        let expected = [
            key("paths", "Files and folders, at least one.", "Location"),
            key("kind", "Type of the column.", "Results"),
            key("in", "What to do.", "Failure"),
        ];
        assert_eq!(keys(&input).unwrap(), expected);
    }

    #[test]
    fn settings_without_fields_have_no_keys() {
        assert_eq!(keys(&parse_quote! { struct Settings {} }).unwrap(), []);
        assert_eq!(keys(&parse_quote! { struct Settings; }).unwrap(), []);
    }

    #[test]
    fn what_is_wrong_with_each_field_is_said() {
        let input: DeriveInput = parse_quote! {
            struct Settings {
                undocumented: bool,
                /// Documented.
                #[key(results)]
                misspelt: bool,
                /// Others' keys.
                #[serde(flatten)]
                others: Others,
            }
        };
        let messages: Vec<String> = keys(&input).unwrap_err().into_iter().map(|error| error.to_string()).collect();
        let expected = ["a key needs a doc comment", "expected `location` or `failure`", "cannot see the keys"];
        assert_eq!(messages.len(), expected.len(), "{messages:?}");
        for (message, expected) in messages.iter().zip(expected) {
            assert!(message.contains(expected), "{message}");
        }
        assert!(keys(&parse_quote! { enum Settings {} }).is_err());
        assert!(keys(&parse_quote! { struct Settings(bool); }).is_err());
    }
}
