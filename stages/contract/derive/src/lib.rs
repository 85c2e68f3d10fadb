//! `#[derive(StageKeys)]`: the keys of a stage's table, read from its settings struct.
//!
//! The doc comment of a field is the only documentation of its key. An attribute of the field can state the default and
//! the range of the key.
#![forbid(unsafe_code)]

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::{Attribute, Data, DeriveInput, Error, Expr, ExprUnary, Field, Fields, Lit, Meta, Result, Token, Type, UnOp};

/// Implements `contract::StageKeys` for a struct with named fields: one key per field, in the same order.
///
/// - Every field needs a doc comment. Its lines are joined by spaces.
/// - `#[serde(rename = "…")]` also renames the key. A field with `#[serde(skip)]` is not a key. A field with
///   `#[serde(flatten)]` stands for the keys of its type.
/// - `#[key(min = 0, max = 1)]` sets the smallest and the largest valid number.
/// - `#[key(default = 0.5)]` sets the default. If any field has one, `Default` is implemented for the struct; fields
///   without this attribute get the default of their type.
/// - `#[key(location)]` and `#[key(failure)]` mark keys that do not affect results, `#[key(rounding)]` those that only affect
///   how they are rounded (`contract::Effect`).
#[proc_macro_derive(StageKeys, attributes(key))]
pub fn stage_keys(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    let items = items(&input).map(|items| implementation(&input, &items));
    items.unwrap_or_else(Error::into_compile_error).into()
}

/// A field of the settings.
#[derive(Debug, PartialEq)]
enum Item {
    Key(Key),
    /// The keys of this type.
    Flattened(Box<Type>),
    /// Not a key.
    Skipped,
}

#[derive(Debug, Default, PartialEq)]
struct Key {
    name: String,
    documentation: String,
    attributes: KeyAttributes,
}

/// The arguments of `#[key(…)]`.
#[derive(Debug, PartialEq)]
struct KeyAttributes {
    /// A variant of `contract::Effect`.
    effect: &'static str,
    min: Option<f64>,
    max: Option<f64>,
    default: Option<Box<Expr>>,
}

impl Default for KeyAttributes {
    fn default() -> Self {
        Self { effect: "Results", min: None, max: None, default: None }
    }
}

impl ToTokens for Item {
    /// A `Vec` of keys.
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(match self {
            Self::Skipped => quote! { ::std::vec::Vec::new() },
            Self::Flattened(part) => quote! { <#part as ::contract::StageKeys>::keys() },
            Self::Key(Key { name, documentation, attributes }) => {
                let effect = format_ident!("{}", attributes.effect);
                let [min, max] = [attributes.min, attributes.max].map(|bound| match bound {
                    Some(bound) => quote! { ::core::option::Option::Some(#bound) },
                    None => quote! { ::core::option::Option::None },
                });
                quote! {
                    ::std::vec![::contract::Key {
                        name: #name,
                        documentation: #documentation,
                        effect: ::contract::Effect::#effect,
                        min: #min,
                        max: #max,
                    }]
                }
            }
        });
    }
}

fn implementation(input: &DeriveInput, items: &[Item]) -> TokenStream {
    let name = &input.ident;
    let mut generics = input.generics.clone();
    for item in items {
        if let Item::Flattened(part) = item {
            generics.make_where_clause().predicates.push(syn::parse_quote! { #part: ::contract::StageKeys });
        }
    }
    let (generics, arguments, bounds) = generics.split_for_impl();
    let default = default(input, items);
    quote! {
        impl #generics ::contract::StageKeys for #name #arguments #bounds {
            fn keys() -> ::std::vec::Vec<::contract::Key> {
                let keys: ::std::vec::Vec<::std::vec::Vec<::contract::Key>> = ::std::vec![#(#items),*];
                keys.concat()
            }
        }
        #default
    }
}

/// `impl Default`, if any key has a default.
fn default(input: &DeriveInput, items: &[Item]) -> Option<TokenStream> {
    let Data::Struct(data) = &input.data else { return None };
    let of = |item: &Item| match item {
        Item::Key(key) => key.attributes.default.clone(),
        Item::Flattened(_) | Item::Skipped => None,
    };
    items.iter().find_map(of)?;
    let values = data.fields.iter().zip(items).map(|(field, item)| {
        let name = &field.ident;
        match of(item) {
            Some(value) => quote! { #name: #value },
            None => quote! { #name: ::core::default::Default::default() },
        }
    });
    let (name, (generics, arguments, bounds)) = (&input.ident, input.generics.split_for_impl());
    Some(quote! {
        impl #generics ::core::default::Default for #name #arguments #bounds {
            fn default() -> Self {
                Self { #(#values),* }
            }
        }
    })
}

/// The fields of a struct, or the errors of all of them.
fn items(input: &DeriveInput) -> Result<Vec<Item>> {
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
    let mut items = Vec::new();
    let mut wrong: Option<Error> = None;
    for field in fields {
        match item(field) {
            Ok(item) => items.push(item),
            Err(error) => match &mut wrong {
                Some(all) => all.combine(error),
                None => wrong = Some(error),
            },
        }
    }
    wrong.map_or(Ok(items), Err)
}

fn item(field: &Field) -> Result<Item> {
    let serde = serde_attributes(&field.attrs)?;
    if serde.skip {
        return Ok(Item::Skipped);
    }
    if serde.flatten {
        return Ok(Item::Flattened(Box::new(field.ty.clone())));
    }
    let documentation = documentation(&field.attrs);
    if documentation.is_empty() {
        return Err(Error::new_spanned(field, "a key needs a doc comment: it is the key's only documentation"));
    }
    let name = field.ident.as_ref().map(|ident| ident.unraw().to_string()).unwrap_or_default();
    let name = serde.rename.unwrap_or(name);
    Ok(Item::Key(Key { name, documentation, attributes: key_attributes(&field.attrs)? }))
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

/// The value of a string literal, which is in an invisible group if a declarative macro has passed it on.
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

/// The arguments of `#[serde(…)]` that affect keys.
#[derive(Default)]
struct SerdeAttributes {
    rename: Option<String>,
    flatten: bool,
    skip: bool,
}

fn serde_attributes(attributes: &[Attribute]) -> Result<SerdeAttributes> {
    let mut found = SerdeAttributes::default();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        for meta in attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)? {
            match meta {
                Meta::NameValue(meta) if meta.path.is_ident("rename") => found.rename = text(&meta.value),
                Meta::Path(path) if path.is_ident("flatten") => found.flatten = true,
                Meta::Path(path) if path.is_ident("skip") => found.skip = true,
                _ => {}
            }
        }
    }
    Ok(found)
}

fn key_attributes(attributes: &[Attribute]) -> Result<KeyAttributes> {
    let mut found = KeyAttributes::default();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("key")) {
        attribute.parse_nested_meta(|meta| {
            match () {
                () if meta.path.is_ident("location") => found.effect = "Location",
                () if meta.path.is_ident("failure") => found.effect = "Failure",
                () if meta.path.is_ident("rounding") => found.effect = "Rounding",
                () if meta.path.is_ident("min") => found.min = Some(bound(&meta)?),
                () if meta.path.is_ident("max") => found.max = Some(bound(&meta)?),
                () if meta.path.is_ident("default") => found.default = Some(meta.value()?.parse()?),
                () => {
                    let known = "`default = …`, `min = …`, `max = …`, `location`, `failure` or `rounding`";
                    return Err(meta.error(format!("expected {known}; a key affects results if nothing is said")));
                }
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// The number after `min =` or `max =`.
fn bound(meta: &ParseNestedMeta) -> Result<f64> {
    let value: Expr = meta.value()?.parse()?;
    number(&value).ok_or_else(|| Error::new_spanned(&value, "expected a number"))
}

fn number(value: &Expr) -> Option<f64> {
    match value {
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => number(expr).map(|number| -number),
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => number.base10_parse().ok(),
            Lit::Float(number) => number.base10_parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn key(name: &str, documentation: &str, attributes: KeyAttributes) -> Item {
        Item::Key(Key { name: name.into(), documentation: documentation.into(), attributes })
    }

    fn of_effect(effect: &'static str) -> KeyAttributes {
        KeyAttributes { effect, ..KeyAttributes::default() }
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
                #[serde(flatten)]
                others: Others,
                #[serde(skip)]
                known: bool,
                /// How much.
                #[key(min = -1, max = 2.5, default = half(1))]
                weight: f64,
            }
        };
        let weight = KeyAttributes {
            min: Some(-1.0),
            max: Some(2.5),
            default: Some(parse_quote!(half(1))),
            ..KeyAttributes::default()
        };
        let expected = [
            key("paths", "Files and folders, at least one.", of_effect("Location")),
            key("kind", "Type of the column.", of_effect("Results")),
            key("in", "What to do.", of_effect("Failure")),
            Item::Flattened(parse_quote!(Others)),
            Item::Skipped,
            key("weight", "How much.", weight),
        ];
        let items = items(&input).unwrap();
        assert_eq!(items, expected);
        let default = default(&input, &items).unwrap().to_string();
        assert!(default.contains("others : :: core :: default :: Default :: default ()"), "{default}");
        assert!(default.contains("weight : half (1)"), "{default}");
    }

    #[test]
    fn settings_without_fields_have_no_keys_and_those_without_a_default_no_impl_of_it() {
        for input in [parse_quote! { struct Settings {} }, parse_quote! { struct Settings; }] {
            let items = items(&input).unwrap();
            assert_eq!(items, []);
            assert!(default(&input, &items).is_none());
        }
    }

    #[test]
    fn what_is_wrong_with_each_field_is_said() {
        let input: DeriveInput = parse_quote! {
            struct Settings {
                undocumented: bool,
                /// Documented.
                #[key(results)]
                misspelt: bool,
                /// Documented.
                #[key(min = "low")]
                bounded: f64,
            }
        };
        let messages: Vec<String> = items(&input).unwrap_err().into_iter().map(|error| error.to_string()).collect();
        let expected = ["a key needs a doc comment", "`failure` or `rounding`", "expected a number"];
        assert_eq!(messages.len(), expected.len(), "{messages:?}");
        for (message, expected) in messages.iter().zip(expected) {
            assert!(message.contains(expected), "{message}");
        }
        assert!(items(&parse_quote! { enum Settings {} }).is_err());
        assert!(items(&parse_quote! { struct Settings(bool); }).is_err());
    }
}
