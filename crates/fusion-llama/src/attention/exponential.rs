//! The exponential function, in steps that the compiler takes for a whole vector at a time.

/// `e` to the power of a number of at most zero, to some 1e-7 of itself; zero from about -87 down.
///
/// The number is a whole multiple of ln 2 and a rest, whose exponential is the Taylor polynomial of degree seven.
#[inline(always)]
pub(super) fn exponential(number: f32) -> f32 {
    const LEAST: f32 = -87.0;
    // Added to a small number, it leaves the nearest whole one in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    // ln 2 in two parts, of which the first has few bits, so that its multiples are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let kept = if number > LEAST { number } else { LEAST };
    let shifted = kept * std::f32::consts::LOG2_E + ROUNDING;
    let whole = shifted - ROUNDING;
    let rest = kept - whole * LN_2[0] - whole * LN_2[1];
    let polynomial = [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ]
    .into_iter()
    .fold(1.0 / 5040.0, |sum, factor: f32| sum * rest + factor);
    let power = shifted.to_bits().wrapping_add(127) << 23;
    let result = polynomial * f32::from_bits(power);
    if number > LEAST { result } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_exact_to_single_precision() {
        for step in 0..=8_600 {
            let number = -0.01 * step as f32;
            let (is, should) = (f64::from(exponential(number)), f64::from(number).exp());
            assert!((is / should - 1.0).abs() < 4e-7, "{number}: {is} {should}");
        }
        assert_eq!(exponential(f32::NEG_INFINITY), 0.0);
    }
}
