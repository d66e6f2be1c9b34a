//! Which columns are read, and of which types they may be.

use std::{fmt, path::Path, str::FromStr};

use duet_core::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::{
    Client,
    types::{Kind, Oid, Type},
};

use super::{
    binary::{Field, Layout, Role, Wire},
    failure::Failure,
};

/// The columns of the accounts table that features are made of; no other column is read.
///
/// A feature whose column is `None` is missing for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountColumns {
    /// The id that events carry: text, uuid or a whole number.
    pub user_id: String,
    /// Age in years: a whole number.
    pub age: Option<String>,
    /// Date of birth: date or timestamp. The age goes before it.
    pub birth_date: Option<String>,
    /// Text or an enumeration.
    pub gender: Option<String>,
    /// Degrees north: double precision, real or numeric.
    pub lat: Option<String>,
    /// Degrees east.
    pub lon: Option<String>,
    /// Text; for accounts without coordinates.
    pub country: Option<String>,
    /// The sign-up: timestamp with or without time zone (then UTC), or date.
    pub created_at: Option<String>,
}

impl Default for AccountColumns {
    fn default() -> Self {
        let name = |text: &str| Some(text.to_owned());
        Self {
            user_id: "user_id".to_owned(),
            age: None,
            birth_date: name("birth_date"),
            gender: name("gender"),
            lat: name("lat"),
            lon: name("lon"),
            country: name("country"),
            created_at: name("created_at"),
        }
    }
}

impl AccountColumns {
    pub(super) fn validate(&self) -> Result<()> {
        if self.lat.is_some() != self.lon.is_some() {
            return Err(Error::input("account columns: lat and lon belong together, but only one is named"));
        }
        Ok(())
    }

    fn named(&self) -> Vec<(Role, &str)> {
        let optional = [
            (Role::Age, &self.age),
            (Role::BirthDate, &self.birth_date),
            (Role::Gender, &self.gender),
            (Role::Lat, &self.lat),
            (Role::Lon, &self.lon),
            (Role::Country, &self.country),
            (Role::CreatedAt, &self.created_at),
        ];
        let mut named = vec![(Role::UserId, self.user_id.as_str())];
        named.extend(optional.into_iter().filter_map(|(role, name)| name.as_deref().map(|name| (role, name))));
        named
    }
}

/// The name of a table or view, with its schema where the search path does not lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The schema.
    pub schema: Option<String>,
    /// The table in it.
    pub name: String,
}

impl TableName {
    /// The name as an SQL identifier: whatever it holds is a name and nothing else.
    pub(crate) fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.name)),
            None => quoted(&self.name),
        }
    }
}

impl FromStr for TableName {
    type Err = Error;

    /// `TABLE` or `SCHEMA.TABLE`.
    fn from_str(text: &str) -> Result<Self> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema.to_owned()), name),
            None => (None, text),
        };
        if name.is_empty() || text.contains('\0') || schema.as_deref() == Some("") {
            return Err(Error::input(format!("{text:?} is no table; valid: TABLE or SCHEMA.TABLE")));
        }
        Ok(Self { schema, name: name.to_owned() })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(formatter, "{schema}.{}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Finds the columns in the table and checks their types.
pub(super) async fn resolve(
    client: &Client,
    place: &Path,
    table: &TableName,
    columns: &AccountColumns,
) -> Result<Layout, Failure> {
    let failed = |error| Failure::new(place, &error);
    let oid: Option<Oid> =
        client.query_one("SELECT to_regclass($1)::oid", &[&table.quoted()]).await.map_err(failed)?.get(0);
    let Some(oid) = oid else {
        return Err(Error::data(place, "no such table or view, or it lies in a schema that this role can't use").into());
    };
    let query = "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped \
                 ORDER BY attnum";
    let rows = client.query(query, &[&oid]).await.map_err(failed)?;
    let there: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let named = columns.named();
    for (_, name) in &named {
        if !there.iter().any(|column| column == name) {
            return Err(Error::data(place, format!("no column {name:?}; it has: {}", there.join(", "))).into());
        }
    }
    let list: Vec<String> = named.iter().map(|(_, name)| quoted(name)).collect();
    let probe = format!("SELECT {} FROM {} LIMIT 0", list.join(", "), table.quoted());
    let statement = client.prepare(&probe).await.map_err(failed)?;
    let mut fields = Vec::new();
    for ((role, name), column) in named.into_iter().zip(statement.columns()) {
        let found = column.type_();
        let Some(wire) = wire(role, found) else {
            let message = format!("column {name:?} has the type {found}; valid for it: {}", role.valid_types());
            return Err(Error::data(place, message).into());
        };
        fields.push(Field { role, name: name.to_owned(), wire });
    }
    Ok(Layout::new(fields))
}

/// How a type lies in the stream, if a column of this role may have it.
fn wire(role: Role, found: &Type) -> Option<Wire> {
    let wire = match *found {
        Type::TEXT | Type::VARCHAR | Type::NAME => Wire::Text,
        Type::BPCHAR => Wire::PaddedText,
        Type::UUID => Wire::Uuid,
        Type::INT2 => Wire::Int2,
        Type::INT4 => Wire::Int4,
        Type::INT8 => Wire::Int8,
        Type::FLOAT4 => Wire::Float4,
        Type::FLOAT8 => Wire::Float8,
        Type::NUMERIC => Wire::Numeric,
        Type::DATE => Wire::Date,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => Wire::Timestamp,
        _ => match found.kind() {
            Kind::Enum(_) => Wire::Text,
            // An extension: text that compares without regard to case.
            Kind::Simple if found.name() == "citext" => Wire::Text,
            _ => return None,
        },
    };
    let fits = match role {
        Role::UserId => {
            matches!(wire, Wire::Text | Wire::PaddedText | Wire::Uuid | Wire::Int2 | Wire::Int4 | Wire::Int8)
        }
        Role::Gender | Role::Country => matches!(wire, Wire::Text | Wire::PaddedText),
        Role::Age => matches!(wire, Wire::Int2 | Wire::Int4 | Wire::Int8),
        Role::Lat | Role::Lon => matches!(wire, Wire::Float4 | Wire::Float8 | Wire::Numeric),
        Role::BirthDate | Role::CreatedAt => matches!(wire, Wire::Date | Wire::Timestamp),
    };
    fits.then_some(wire)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_whatever_they_hold() {
        let table: TableName = "public.accounts".parse().unwrap();
        assert_eq!(
            (table.quoted().as_str(), table.to_string().as_str()),
            ("\"public\".\"accounts\"", "public.accounts")
        );
        let table: TableName = "a\"; DROP TABLE b".parse().unwrap();
        assert_eq!(table.quoted(), "\"a\"\"; DROP TABLE b\"");
        for bad in ["", ".", ".a", "a."] {
            assert!(bad.parse::<TableName>().unwrap_err().to_string().contains("SCHEMA.TABLE"), "{bad}");
        }
    }

    #[test]
    fn a_column_list_comes_from_a_configuration() {
        let columns: AccountColumns = toml::from_str("user_id = \"id\"\nage = \"years\"").unwrap();
        assert_eq!(columns.named()[..2], [(Role::UserId, "id"), (Role::Age, "years")]);
        assert!(toml::from_str::<AccountColumns>("mail = \"email\"").is_err());
        assert!(AccountColumns { lon: None, ..AccountColumns::default() }.validate().is_err());
    }
}
