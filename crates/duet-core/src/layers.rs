//! Configuration in layers: a commented default text that holds every key, files over it, `--set key=value` over those.
//!
//! The default holds every key, so the set of valid keys is the set of its keys: an unknown one, or one of another type, is
//! an error that says what would be valid.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{Error, Result};

/// Puts `texts` (name and TOML), then `settings` (`key=value`) over the default text and reads the result.
///
/// # Errors
/// [`Error::Input`] naming the text and the key.
pub fn resolve<T: DeserializeOwned>(default: (&str, &str), texts: &[(&str, &str)], settings: &[String]) -> Result<T> {
    let mut resolved = parse(default.0, default.1)?;
    for (name, text) in texts {
        merge(&mut resolved, parse(name, text)?, name, "")?;
    }
    for setting in settings {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| Error::input(format!("--set {setting:?}: expected key=value, as in model.dim=128")))?;
        let mut layer = Table::new();
        insert(&mut layer, key.trim(), parse_value(value.trim()));
        merge(&mut resolved, layer, &format!("--set {setting}"), "")?;
    }
    resolved.try_into().map_err(|error| Error::input(format!("configuration: {error}")))
}

fn parse(name: &str, text: &str) -> Result<Table> {
    text.parse::<Table>().map_err(|error| Error::input(format!("{name}: {error}")))
}

/// A value as TOML, or else a plain string, so that `--set model.encoder=mean` needs no quotes.
fn parse_value(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((head, rest)) => {
            let mut inner = Table::new();
            insert(&mut inner, rest, value);
            table.insert(head.to_owned(), Value::Table(inner));
        }
    }
}

/// Puts `layer` over `base`. Every key of `layer` must exist in `base` and keep its type.
fn merge(base: &mut Table, layer: Table, name: &str, path: &str) -> Result<()> {
    for (key, value) in layer {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(old) = base.get_mut(&key) else {
            let valid: Vec<String> =
                base.keys().map(|key| if path.is_empty() { key.clone() } else { format!("{path}.{key}") }).collect();
            return Err(Error::input(format!("{name}: unknown key {full:?}; valid: {}", valid.join(", "))));
        };
        match (old, value) {
            (Value::Table(old), Value::Table(new)) => merge(old, new, name, &full)?,
            // 1 is a fine float.
            (old @ Value::Float(_), Value::Integer(new)) => *old = Value::Float(new as f64),
            (old, new) if old.same_type(&new) => *old = new,
            (old, new) => {
                return Err(Error::input(format!(
                    "{name}: {full} must be {} {}, not {} ({new})",
                    article(old.type_str()),
                    old.type_str(),
                    new.type_str()
                )));
            }
        }
    }
    Ok(())
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
