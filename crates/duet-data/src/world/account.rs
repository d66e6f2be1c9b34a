//! The accounts table, with personal data on purpose: as CSV, and as SQL for Postgres (DDL and COPY).
//!
//! Everything in it is invented; the mail domain is reserved for examples (RFC 2606).

use chrono::{Datelike, Days, NaiveDate};

use super::{
    catalogue::word,
    draws::{Draws, Stream},
    json::user_id,
    listener::{Gender, Person},
};

/// Columns, in the order of both files.
pub(super) const COLUMNS: &str = "user_id,email,full_name,birth_date,gender,lat,lon,country,phone,created_at";

/// The columns as Postgres knows them.
pub(super) const DEFINITION: &str = "    user_id    text PRIMARY KEY,
    email      text NOT NULL,
    full_name  text NOT NULL,
    birth_date date,
    gender     text,
    lat        double precision,
    lon        double precision,
    country    text,
    phone      text,
    created_at timestamptz NOT NULL
";
/// The same columns in the order of a row.
pub(super) const SQL_COLUMNS: &str =
    "user_id, email, full_name, birth_date, gender, lat, lon, country, phone, created_at";
/// What every address ends in: a domain that is reserved for examples.
pub(super) const MAIL_DOMAIN: &str = "@example.org";

/// Start of the SQL file, up to the data.
pub(super) fn sql_head() -> String {
    format!(
        "-- Invented accounts of a synthetic world. Load with: psql -f accounts.sql\n\
         CREATE TABLE IF NOT EXISTS accounts (\n{DEFINITION});\n\
         COPY accounts ({SQL_COLUMNS}) FROM stdin;\n"
    )
}
/// End of the SQL file.
pub(super) const SQL_TAIL: &str = "\\.\n";

/// Appends a user's row to both files.
pub(super) fn push(seed: u64, user: u64, person: &Person, start: NaiveDate, csv: &mut String, sql: &mut String) {
    let mut draws = Draws::new(seed, Stream::Person, user, 0);
    let (first, last) = (word(&mut draws, 2), word(&mut draws, 2));
    let email = format!("{}.{}{user}{MAIL_DOMAIN}", first.to_ascii_lowercase(), last.to_ascii_lowercase());
    // A birthday some time in the year before they turned `age`, counted at the first day of the window.
    let birthday = start
        .with_day(1)
        .and_then(|date| date.with_year(start.year() - person.age as i32))
        .and_then(|date| date.checked_sub_days(Days::new(draws.below(365) as u64)))
        .unwrap_or(start);
    let birth_date = if draws.chance(0.03) { String::new() } else { birthday.to_string() };
    let gender = match person.gender {
        Gender::Male => "male",
        Gender::Female => "female",
        Gender::Undisclosed => "",
    };
    let (lat, lon) = if draws.chance(0.02) {
        (String::new(), String::new())
    } else {
        (format!("{:.5}", person.lat), format!("{:.5}", person.lon))
    };
    let country = person.home().country;
    let phone = if draws.chance(0.4) { format!("+99{:09}", draws.below(1_000_000_000)) } else { String::new() };
    let created = start.checked_add_signed(chrono::Duration::days(i64::from(person.sign_up))).unwrap_or(start);
    // The hour matters little, but the account must precede the first event: midnight in the easternmost zone.
    let created_at = format!("{created}T00:00:00+14:00");
    let id = user_id(user);
    let fields = [
        id.as_str(),
        &email,
        &format!("{first} {last}"),
        &birth_date,
        gender,
        &lat,
        &lon,
        country,
        &phone,
        &created_at,
    ];
    for (at, field) in fields.iter().enumerate() {
        let end = if at + 1 == fields.len() { ('\n', '\n') } else { (',', '\t') };
        csv.push_str(field);
        csv.push(end.0);
        sql.push_str(if field.is_empty() { "\\N" } else { field });
        sql.push(end.1);
    }
}
