//! A vector of numbers, as wide as the processor has them.
#![expect(unsafe_code, reason = "instructions that not every processor has")]

use std::arch::x86_64::{
    __m256, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128, _mm_movehdup_ps,
    _mm_movehl_ps, _mm256_castps256_ps128, _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps, _mm256_set1_ps, _mm256_storeu_ps,
    _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_set1_ps, _mm512_storeu_ps,
};

/// # Safety
/// The functions may be called where the processor has what they are named for; addresses are those of [`Lanes::WIDTH`] numbers.
pub(super) unsafe trait Lanes: Copy {
    const WIDTH: usize;

    unsafe fn splat(number: f32) -> Self;
    unsafe fn load(numbers: *const f32) -> Self;
    /// Of numbers in half precision.
    unsafe fn load_half(numbers: *const u16) -> Self;
    unsafe fn store(self, numbers: *mut f32);
    unsafe fn times(self, other: Self) -> Self;
    /// `self * factor + sum`
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self;
    unsafe fn sum(self) -> f32;
}

/// AVX2, FMA and F16C.
// SAFETY: these instructions read and write eight numbers.
unsafe impl Lanes for __m256 {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        unsafe { _mm256_set1_ps(number) }
    }

    #[inline(always)]
    unsafe fn load(numbers: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(numbers) }
    }

    #[inline(always)]
    unsafe fn load_half(numbers: *const u16) -> Self {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(numbers.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        unsafe { _mm256_storeu_ps(numbers, self) }
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        unsafe { _mm256_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, factor, sum) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let four = _mm_add_ps(
                _mm256_castps256_ps128(self),
                _mm256_extractf128_ps::<1>(self),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

/// AVX-512 F.
// SAFETY: these instructions read and write sixteen numbers.
unsafe impl Lanes for __m512 {
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        unsafe { _mm512_set1_ps(number) }
    }

    #[inline(always)]
    unsafe fn load(numbers: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(numbers) }
    }

    #[inline(always)]
    unsafe fn load_half(numbers: *const u16) -> Self {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(numbers.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        unsafe { _mm512_storeu_ps(numbers, self) }
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, factor, sum) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self) }
    }
}
