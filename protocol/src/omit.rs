//! When a field is left out of the wire form. Does not decide which fields are optional.

/// Whether a value is what its absence means.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
