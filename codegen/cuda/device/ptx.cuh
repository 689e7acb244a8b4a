// Single PTX instructions. `d` is read and written; fragments are as the PTX manual lays them out.

#define QC_PTX __device__ __forceinline__ void

QC_PTX qc_ptx_mma_m8n8k128_b1_xor(int *d, unsigned a, unsigned b) {
  asm volatile("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%0,%1}, {%2}, {%3}, {%0,%1};"
               : "+r"(d[0]), "+r"(d[1]) : "r"(a), "r"(b));
}

#define QC_PTX_M8N8K16(name, types) \
  QC_PTX name(int *d, unsigned a, unsigned b) { \
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32." types ".s32 {%0,%1}, {%2}, {%3}, {%0,%1};" \
                 : "+r"(d[0]), "+r"(d[1]) : "r"(a), "r"(b)); \
  }
QC_PTX_M8N8K16(qc_ptx_mma_m8n8k16_s8s8, "s8.s8")
QC_PTX_M8N8K16(qc_ptx_mma_m8n8k16_u8s8, "u8.s8")

// What follows exists from sm_80 on; functions that no kernel calls are not compiled further.
#define QC_PTX_M16N8(name, form) \
  QC_PTX name(int *d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) { \
    asm volatile("mma.sync.aligned." form " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1)); \
  }
QC_PTX_M16N8(qc_ptx_mma_m16n8k256_b1_xor, "m16n8k256.row.col.s32.b1.b1.s32.xor.popc")
QC_PTX_M16N8(qc_ptx_mma_m16n8k256_b1_and, "m16n8k256.row.col.s32.b1.b1.s32.and.popc")
QC_PTX_M16N8(qc_ptx_mma_m16n8k32_s8s8, "m16n8k32.row.col.s32.s8.s8.s32")
QC_PTX_M16N8(qc_ptx_mma_m16n8k32_u8s8, "m16n8k32.row.col.s32.u8.s8.s32")
QC_PTX_M16N8(qc_ptx_mma_m16n8k32_u8u8, "m16n8k32.row.col.s32.u8.u8.s32")

__device__ __forceinline__ unsigned qc_ptx_shared(const void *p) {
  return (unsigned)__cvta_generic_to_shared(p);
}

QC_PTX qc_ptx_ldmatrix_x4(unsigned *r, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(qc_ptx_shared(row)) : "memory");
}

// Through the first cache: patches overlap, and blocks on one processor share their weights.
#define QC_PTX_CP_ASYNC(size) \
  QC_PTX qc_ptx_cp_async_##size(void *shared, const void *global) { \
    asm volatile("cp.async.ca.shared.global [%0], [%1], " #size ";" \
                 :: "r"(qc_ptx_shared(shared)), "l"(__cvta_generic_to_global(global)) : "memory"); \
  }
QC_PTX_CP_ASYNC(4)
QC_PTX_CP_ASYNC(8)
QC_PTX_CP_ASYNC(16)

QC_PTX qc_ptx_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

#define QC_PTX_CP_ASYNC_WAIT(groups) \
  QC_PTX qc_ptx_cp_async_wait_##groups() { asm volatile("cp.async.wait_group " #groups ";" ::: "memory"); }
QC_PTX_CP_ASYNC_WAIT(0)
QC_PTX_CP_ASYNC_WAIT(1)
QC_PTX_CP_ASYNC_WAIT(2)
