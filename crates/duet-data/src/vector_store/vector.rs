//! A vector as pgvector takes it in binary form: the number of components and a zero (16 bits each), then the components, all
//! big-endian.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// The components of a vector, as a parameter or a field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Components<'a>(pub(super) &'a [f32]);

impl ToSql for Components<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_u16(u16::try_from(self.0.len())?);
        out.put_u16(0);
        self.0.iter().for_each(|component| out.put_f32(*component));
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        ty.name() == "vector"
    }

    to_sql_checked!();
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn two_components() {
        let mut out = BytesMut::new();
        Components(&[1.0, -2.0]).to_sql(&Type::BYTEA, &mut out).unwrap();
        assert_eq!(&out[..], [0, 2, 0, 0, 0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0]);
    }
}
