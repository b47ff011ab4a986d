//! How many bytes a tensor takes, by ggml's type numbers.

/// Bytes of a tensor with these dimensions; `None` for an unknown type or dimensions that can't be.
pub(super) fn tensor_bytes(kind: u32, dimensions: &[u64]) -> Option<u64> {
    let (block, bytes) = layout(kind)?;
    let row = dimensions.first().copied().unwrap_or(1);
    if row % block != 0 {
        return None;
    }
    let elements = dimensions
        .iter()
        .try_fold(1_u64, |product, size| product.checked_mul(*size))?;
    (elements / block).checked_mul(bytes)
}

/// Whether ggml multiplies such a tensor quicker once its rows are interleaved, and we can't without that: those types for which
/// `matmul` has no code, and experts, which it isn't asked for.
pub(super) fn gains_by_repacking(kind: u32, dimensions: &[u64]) -> bool {
    let is_for_experts = dimensions.get(2).is_some_and(|experts| *experts > 1);
    matches!(kind, 2 | 20 | 39) || kind == 12 && is_for_experts
}

/// Whether ggml copies such a tensor into the order of AMX's tiles, where there is AMX.
pub(super) fn has_amx_order(kind: u32, dimensions: &[u64]) -> bool {
    let is_matrix = matches!(dimensions, [_, _] | [_, _, 1] | [_, _, 1, 1]);
    is_matrix && (is_ours(kind) || matches!(kind, 2 | 13 | 23))
}

/// Whether `matmul` multiplies such a tensor as it is, where there is AMX.
pub(super) fn is_ours(kind: u32) -> bool {
    matches!(kind, 3 | 8 | 12 | 14)
}

/// Elements and bytes of one block.
fn layout(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),      // f32, i32
        1 | 25 | 30 => (1, 2), // f16, i16, bf16
        2 => (32, 18),         // q4_0
        3 => (32, 20),         // q4_1
        6 => (32, 22),         // q5_0
        7 => (32, 24),         // q5_1
        8 => (32, 34),         // q8_0
        9 => (32, 36),         // q8_1
        10 => (256, 84),       // q2_k
        11 => (256, 110),      // q3_k
        12 => (256, 144),      // q4_k
        13 => (256, 176),      // q5_k
        14 => (256, 210),      // q6_k
        15 => (256, 292),      // q8_k
        16 => (256, 66),       // iq2_xxs
        17 => (256, 74),       // iq2_xs
        18 => (256, 98),       // iq3_xxs
        19 => (256, 50),       // iq1_s
        20 => (32, 18),        // iq4_nl
        21 => (256, 110),      // iq3_s
        22 => (256, 82),       // iq2_s
        23 => (256, 136),      // iq4_xs
        24 | 43 => (1, 1),     // i8, f8_e4m3
        27 | 28 => (1, 8),     // i64, f64
        29 => (256, 56),       // iq1_m
        34 => (256, 54),       // tq1_0
        35 => (256, 66),       // tq2_0
        39 => (32, 17),        // mxfp4
        40 => (64, 36),        // nvfp4
        41 => (128, 18),       // q1_0
        42 => (64, 18),        // q2_0
        _ => return None,
    })
}
