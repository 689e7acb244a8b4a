extern "C" __global__ void __launch_bounds__(256) elementwise_scale_shift(float* __restrict__ data, float* __restrict__ data_1, float* __restrict__ data_2, float* __restrict__ data_3, uchar* __restrict__ data_4, int* __restrict__ data_5, int n) {
  int cse_v1 = (n * 600);
  int cse_v2 = (n * 960);
  int v = cse_v2;
  int cse_v3 = ((((int)blockIdx.x) * 256) + ((int)threadIdx.x));
  int v_1 = cse_v3;
  int cse_v4 = max(min(cse_v3, (cse_v2 - 1)), 0);
  int v_2 = cse_v4;
  int cse_v5 = (cse_v4 & 63);
  int v_3 = cse_v5;
  int v_4 = ((cse_v4 % 192) >> 6);
  int cse_v6 = (cse_v4 % 960);
  int v_5 = (cse_v6 / 192);
  int cse_v7 = (cse_v4 / 960);
  int v_6 = cse_v7;
  int cse_v8 = min(cse_v5, 39);
  int v_7 = cse_v8;
  alignas(64) float _ptr[1];
  int cse_v9 = (cse_v7 * 600);
  int cse_v10 = (cse_v6 >> 6);
  _ptr[0] = ((data[((cse_v9 + (cse_v8 * 15)) + cse_v10)] * data_1[cse_v8]) + data_2[cse_v8]);
  alignas(64) float _ptr_1[1];
  _ptr_1[0] = (rintf(__fmaf_rn(_ptr[0], data_3[0], (_ptr[0] * data_3[1]))) + data_3[2]);
  alignas(64) float _ptr_2[1];
  _ptr_2[0] = ((_ptr_1[0] < 0x0p+0f/*0.000000e+00*/) ? 0x0p+0f/*0.000000e+00*/ : _ptr_1[0]);
  alignas(64) uchar _ptr_3[1];
  _ptr_3[0] = ((uchar)((0x1.ep+3f/*1.500000e+01*/ < _ptr_2[0]) ? 0x1.ep+3f/*1.500000e+01*/ : _ptr_2[0]));
  alignas(64) signed char _ptr_4[1];
  _ptr_4[0] = ((0x0p+0f/*0.000000e+00*/ <= _ptr[0]) ? (signed char)1 : (signed char)-1);
  alignas(64) uint _ptr_5[1];
  _ptr_5[0] = __ballot_sync((uint)4294967295, (((cse_v3 < cse_v2) && (cse_v5 < 40)) && (_ptr_4[0] <= (signed char)0)));
  if ((cse_v3 < cse_v2) && (cse_v5 < 40)) {
    data_4[((cse_v9 + (cse_v5 * 15)) + cse_v10)] = _ptr_3[0];
  }
  if (((cse_v3 < cse_v2) && (cse_v5 < 40)) && ((((int)threadIdx.x) % 32) == 0)) {
    data_5[(((cse_v4 >> 6) * 2) + (cse_v5 >> 5))] = ((int)_ptr_5[0]);
  }
}
