// One function for each PTX instruction that kernels use. One that the emulated GPU has not is not
// declared: the source does not compile.
#pragma once

namespace qc_emulator {

static inline void warp_wide(Operation kind, int *out, const void *address, unsigned a0 = 0,
                             unsigned a1 = 0, unsigned a2 = 0, unsigned a3 = 0, unsigned b0 = 0,
                             unsigned b1 = 0) {
  Operands operands = {{a0, a1, a2, a3, b0, b1}, address, out};
  services().warp(kind, 0xffffffffu, &operands);
}

}  // namespace qc_emulator

// d = a * b + d, of tiles that lie in the registers of a warp: 8 rows of a
#define QC_MMA_M8(name, kind)                                             \
  static inline void name(int *d, unsigned a, unsigned b) {               \
    qc_emulator::warp_wide(qc_emulator::kind, d, nullptr, a, 0, 0, 0, b); \
  }
// and 16 of them.
#define QC_MMA_M16(name, kind)                                                                     \
  static inline void name(int *d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, \
                          unsigned b1) {                                                           \
    qc_emulator::warp_wide(qc_emulator::kind, d, nullptr, a0, a1, a2, a3, b0, b1);                 \
  }

QC_MMA_M8(qc_ptx_mma_m8n8k128_b1_xor, MMA_M8N8K128_B1_XOR)
QC_MMA_M8(qc_ptx_mma_m8n8k16_s8s8, MMA_M8N8K16_S8S8)
QC_MMA_M8(qc_ptx_mma_m8n8k16_u8s8, MMA_M8N8K16_U8S8)
#if QC_EMULATED >= 800
QC_MMA_M16(qc_ptx_mma_m16n8k256_b1_xor, MMA_M16N8K256_B1_XOR)
QC_MMA_M16(qc_ptx_mma_m16n8k256_b1_and, MMA_M16N8K256_B1_AND)
QC_MMA_M16(qc_ptx_mma_m16n8k32_s8s8, MMA_M16N8K32_S8S8)
QC_MMA_M16(qc_ptx_mma_m16n8k32_u8s8, MMA_M16N8K32_U8S8)
QC_MMA_M16(qc_ptx_mma_m16n8k32_u8u8, MMA_M16N8K32_U8U8)
#endif
#undef QC_MMA_M8
#undef QC_MMA_M16

static inline void qc_ptx_ldmatrix_x2(unsigned *r, const void *shared_row) {
  qc_emulator::warp_wide(qc_emulator::LDMATRIX_X2, reinterpret_cast<int *>(r), shared_row);
}
static inline void qc_ptx_ldmatrix_x4(unsigned *r, const void *shared_row) {
  qc_emulator::warp_wide(qc_emulator::LDMATRIX_X4, reinterpret_cast<int *>(r), shared_row);
}

#if QC_EMULATED >= 800
static inline void qc_ptx_cp_async_4(void *shared, const void *global) {
  qc_emulator::services().copy(shared, global, 4);
}
static inline void qc_ptx_cp_async_8(void *shared, const void *global) {
  qc_emulator::services().copy(shared, global, 8);
}
static inline void qc_ptx_cp_async_16(void *shared, const void *global) {
  qc_emulator::services().copy(shared, global, 16);
}
static inline void qc_ptx_cp_async_commit() { qc_emulator::services().commit(); }
static inline void qc_ptx_cp_async_wait_0() { qc_emulator::services().wait(0); }
static inline void qc_ptx_cp_async_wait_1() { qc_emulator::services().wait(1); }
static inline void qc_ptx_cp_async_wait_2() { qc_emulator::services().wait(2); }
#endif
