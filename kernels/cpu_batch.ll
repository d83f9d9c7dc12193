; Made by `python -m jitgrad.kernels.ahead` from kernels/cpu_batch.py with numba 0.68.1; do not edit.

define range(i32 -1, -2) i32 @run_body(ptr noalias writeonly captures(none) %retptr, ptr noalias writeonly captures(none) %excinfo, i64 %arg.call) local_unnamed_addr {
B0.endif:
  %.328 = alloca ptr, align 8
  %excinfo.2 = alloca ptr, align 8
  %.8 = inttoptr i64 %arg.call to ptr
  %.10 = load i64, ptr %.8, align 8
  %.13 = getelementptr i8, ptr %.8, i64 8
  %.14 = load i64, ptr %.13, align 8
  %.23 = getelementptr i8, ptr %.8, i64 216
  %.24 = load i64, ptr %.23, align 8
  %.27 = getelementptr i8, ptr %.8, i64 224
  %.28 = load i64, ptr %.27, align 8
  %.41 = getelementptr i8, ptr %.8, i64 104
  %.42 = load i64, ptr %.41, align 8
  %.45 = getelementptr i8, ptr %.8, i64 112
  %.46 = load i64, ptr %.45, align 8
  %.58 = getelementptr i8, ptr %.8, i64 16
  %.59 = load i64, ptr %.58, align 8
  %.61 = mul nsw i64 %.59, %.14
  %.67 = getelementptr i8, ptr %.8, i64 88
  %.68 = load i64, ptr %.67, align 8
  %.71 = getelementptr i8, ptr %.8, i64 96
  %.72 = load i64, ptr %.71, align 8
  %.109 = sub i64 %.72, %.68
  %factor.op.mul369 = shl i64 %.46, 3
  %.155424.not = icmp slt i64 %.109, 1
  br i1 %.155424.not, label %common.ret, label %B558.lr.ph

B558.lr.ph:                                       ; preds = %B0.endif
  %0 = inttoptr i64 %arg.call to ptr
  %const = bitcast i64 9223372036854775806 to i64
  %.37 = getelementptr i8, ptr %0, i64 80
  %.38 = load i64, ptr %.37, align 8
  %.737 = inttoptr i64 %.28 to ptr
  %scevgep = getelementptr i8, ptr %.737, i64 8
  br label %B558

B558:                                             ; preds = %B2256, %B558.lr.ph
  %.154370432 = phi i64 [ %.109, %B558.lr.ph ], [ %.164, %B2256 ]
  %.161375431 = phi i64 [ %.68, %B558.lr.ph ], [ %.168, %B2256 ]
  %1 = inttoptr i64 %.38 to ptr
  %.164 = add nsw i64 %.154370432, -1
  %.168 = add i64 %.161375431, 1
  %.202 = getelementptr i64, ptr %1, i64 %.161375431
  %.203 = load i64, ptr %.202, align 8
  %.208 = getelementptr i8, ptr %.202, i64 8
  %.209 = load i64, ptr %.208, align 8
  %.217 = icmp slt i64 %.203, %.209
  br i1 %.217, label %B648.preheader, label %B2256

B648.preheader:                                   ; preds = %B558
  %factor.op.mul.reass = mul i64 %factor.op.mul369, %.161375431
  %.1012 = add nsw i64 %factor.op.mul.reass, %.42
  br label %B648.endif

B708:                                             ; preds = %23, %B648.endif
  %sunkaddr = inttoptr i64 %arg.call to ptr
  %sunkaddr56 = getelementptr i8, ptr %sunkaddr, i64 176
  %.312 = load i64, ptr %sunkaddr56, align 8
  %.313 = icmp eq i64 %.312, 0
  br label %B766

B766:                                             ; preds = %23, %B708
  %.299272 = phi i8 [ 1, %B708 ], [ 0, %23 ]
  %"$phi766.1.2.3" = phi i1 [ %.313, %B708 ], [ false, %23 ]
  %.333 = call i32 @run_body.bring_inputs(ptr nonnull %.328, ptr nonnull %excinfo.2, i64 %arg.call, i64 %first.2.1, i64 %.13.i, i64 %.24, i8 %.299272)
  switch i32 %.333, label %common.ret.loopexit [
    i32 -2, label %B766.endif.endif
    i32 0, label %B766.endif.endif
  ]

B892:                                             ; preds = %B892.preheader, %B2261
  %c.4.3328 = phi i64 [ %c.5.4, %B2261 ], [ 0, %B892.preheader ]
  %.448311326 = phi i64 [ %.455, %B2261 ], [ 0, %B892.preheader ]
  %.455 = add nuw nsw i64 %.448311326, 1
  %sunkaddr57 = inttoptr i64 %arg.call to ptr
  %sunkaddr58 = getelementptr i8, ptr %sunkaddr57, i64 64
  %.483 = load i64, ptr %sunkaddr58, align 8
  %.484 = mul nuw nsw i64 %.448311326, 40
  br i1 %"$phi766.1.2.3", label %B982, label %B1098

B982:                                             ; preds = %B892
  %sunkaddr59 = inttoptr i64 %.483 to ptr
  %sunkaddr60 = getelementptr i8, ptr %sunkaddr59, i64 %.484
  %sunkaddr61 = getelementptr i8, ptr %sunkaddr60, i64 16
  %.494 = load i64, ptr %sunkaddr61, align 8
  %.495 = icmp eq i64 %.494, 1
  br i1 %.495, label %B1022.endif, label %B1098

B1098:                                            ; preds = %B982, %B892
  %sunkaddr62 = inttoptr i64 %arg.call to ptr
  %sunkaddr63 = getelementptr i8, ptr %sunkaddr62, i64 200
  %.542 = load i64, ptr %sunkaddr63, align 8
  %.543 = icmp eq i64 %.542, 1
  %sunkaddr64 = inttoptr i64 %.483 to ptr
  %sunkaddr65 = getelementptr i8, ptr %sunkaddr64, i64 %.484
  %sunkaddr66 = getelementptr i8, ptr %sunkaddr65, i64 24
  %.548 = load i64, ptr %sunkaddr66, align 8
  %.549 = icmp sgt i64 %.548, 1
  %or.cond41 = select i1 %.543, i1 %.549, i1 false
  br i1 %or.cond41, label %B1198.endif, label %B1302.endif

B1362:                                            ; preds = %B1362.lr.ph.new, %B1362
  %.691302304 = phi i64 [ 0, %B1362.lr.ph.new ], [ %.698.1, %B1362 ]
  %sunkaddr67 = inttoptr i64 %arg.call to ptr
  %sunkaddr68 = getelementptr i8, ptr %sunkaddr67, i64 120
  %.726 = load i64, ptr %sunkaddr68, align 8
  %sunkaddr69 = inttoptr i64 %.483 to ptr
  %sunkaddr70 = getelementptr i8, ptr %sunkaddr69, i64 %.484
  %sunkaddr71 = getelementptr i8, ptr %sunkaddr70, i64 32
  %.730 = load i64, ptr %sunkaddr71, align 8
  %2 = add i64 %.691302304, %.730
  %.733 = mul nsw i64 %.61, %2
  %.734 = add nsw i64 %.733, %.726
  %3 = shl i64 %.691302304, 3
  %scevgep52 = getelementptr i8, ptr %scevgep50, i64 %3
  %scevgep53 = getelementptr i8, ptr %scevgep52, i64 -8
  store i64 %.734, ptr %scevgep53, align 8
  %.698.1 = add nuw i64 %.691302304, 2
  %.726.1 = load i64, ptr %sunkaddr68, align 8
  %.730.1 = load i64, ptr %sunkaddr71, align 8
  %4 = add i64 %.691302304, %.730.1
  %5 = add i64 %4, 1
  %.733.1 = mul nsw i64 %.61, %5
  %.734.1 = add nsw i64 %.733.1, %.726.1
  %6 = shl i64 %.691302304, 3
  %scevgep51 = getelementptr i8, ptr %scevgep50, i64 %6
  store i64 %.734.1, ptr %scevgep51, align 8
  %niter.ncmp.1 = icmp eq i64 %unroll_iter, %.698.1
  br i1 %niter.ncmp.1, label %B2261.loopexit.unr-lcssa, label %B1362

B1822:                                            ; preds = %B1822.preheader, %B1988
  %lsr.iv54 = phi i64 [ %.787, %B1822.preheader ], [ %lsr.iv.next55, %B1988 ]
  %lsr.iv = phi i64 [ 0, %B1822.preheader ], [ %lsr.iv.next, %B1988 ]
  %sunkaddr72 = inttoptr i64 %arg.call to ptr
  %sunkaddr73 = getelementptr i8, ptr %sunkaddr72, i64 64
  %.908 = load i64, ptr %sunkaddr73, align 8
  br i1 %"$phi766.1.2.3", label %B1912, label %B1952

B1912:                                            ; preds = %B1822
  %sunkaddr74 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr75 = getelementptr i8, ptr %sunkaddr74, i64 %.908
  %sunkaddr76 = getelementptr i8, ptr %sunkaddr75, i64 16
  %.919 = load i64, ptr %sunkaddr76, align 8
  %.920 = icmp eq i64 %.919, 1
  br i1 %.920, label %B1988, label %B1952

B1952:                                            ; preds = %B1912, %B1822
  %sunkaddr77 = inttoptr i64 %arg.call to ptr
  %sunkaddr78 = getelementptr i8, ptr %sunkaddr77, i64 16
  %.15.i30 = load i64, ptr %sunkaddr78, align 8
  %sunkaddr79 = inttoptr i64 %arg.call to ptr
  %sunkaddr80 = getelementptr i8, ptr %sunkaddr79, i64 8
  %.19.i = load i64, ptr %sunkaddr80, align 8
  %sunkaddr81 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr82 = getelementptr i8, ptr %sunkaddr81, i64 %.908
  %sunkaddr83 = getelementptr i8, ptr %sunkaddr82, i64 16
  %.25.i33 = load i64, ptr %sunkaddr83, align 8
  %sunkaddr84 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr85 = getelementptr i8, ptr %sunkaddr84, i64 %.908
  %sunkaddr86 = getelementptr i8, ptr %sunkaddr85, i64 24
  %.28.i35 = load i64, ptr %sunkaddr86, align 8
  %sunkaddr87 = inttoptr i64 %arg.call to ptr
  %sunkaddr88 = getelementptr i8, ptr %sunkaddr87, i64 120
  %.38.i = load i64, ptr %sunkaddr88, align 8
  %sunkaddr89 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr90 = getelementptr i8, ptr %sunkaddr89, i64 %.908
  %sunkaddr91 = getelementptr i8, ptr %sunkaddr90, i64 32
  %.41.i = load i64, ptr %sunkaddr91, align 8
  %.43.i = mul i64 %.19.i, %.15.i30
  %.44.i = mul i64 %.43.i, %.41.i
  %.45.i = add nsw i64 %.44.i, %.38.i
  %sunkaddr92 = inttoptr i64 %arg.call to ptr
  %sunkaddr93 = getelementptr i8, ptr %sunkaddr92, i64 40
  %.12.i.i = load i64, ptr %sunkaddr93, align 8
  %sunkaddr94 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr95 = getelementptr i8, ptr %sunkaddr94, i64 %.908
  %.15.i.i = load i64, ptr %sunkaddr95, align 8
  %.16.i.i = inttoptr i64 %.12.i.i to ptr
  %.17.i.i = getelementptr i64, ptr %.16.i.i, i64 %.15.i.i
  %.18.i.i = load i64, ptr %.17.i.i, align 8
  %sunkaddr96 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr97 = getelementptr i8, ptr %sunkaddr96, i64 %.908
  %sunkaddr98 = getelementptr i8, ptr %sunkaddr97, i64 8
  %.21.i.i = load i64, ptr %sunkaddr98, align 8
  %.26.i.i = mul i64 %.15.i30, %first.2.1
  %.27.i.i = mul i64 %.26.i.i, %.25.i33
  %.22.i.i = add i64 %.18.i.i, %.27.i.i
  %.28.i.i = add i64 %.22.i.i, %.21.i.i
  %.80.i = icmp eq i64 %.28.i35, 1
  br i1 %.80.i, label %B316.i, label %B538.i

B316.i:                                           ; preds = %B1952
  %7 = inttoptr i64 %arg.call to ptr
  %sunkaddr99 = inttoptr i64 %arg.call to ptr
  %sunkaddr100 = getelementptr i8, ptr %sunkaddr99, i64 176
  %.89.i = load i64, ptr %sunkaddr100, align 8
  %.90.i = icmp eq i64 %.89.i, 1
  %.96.i = icmp eq i64 %.25.i33, 1
  %or.cond.i = select i1 %.90.i, i1 %.96.i, i1 false
  %"$phi506.2.2.0.in.v.i" = select i1 %or.cond.i, i64 160, i64 152
  %"$phi506.2.2.0.in.i" = getelementptr i8, ptr %7, i64 %"$phi506.2.2.0.in.v.i"
  %"$phi506.2.2.0.i" = load i64, ptr %"$phi506.2.2.0.in.i", align 8
  %.131.i = inttoptr i64 %"$phi506.2.2.0.i" to ptr
  tail call void %.131.i(i64 %.45.i, i64 %.28.i.i, i64 %.25.i33, i64 %.13.i, i64 0, i64 0)
  br label %B1988

B538.i:                                           ; preds = %B1952
  %sunkaddr101 = inttoptr i64 %arg.call to ptr
  %sunkaddr102 = getelementptr i8, ptr %sunkaddr101, i64 168
  %.150.i = load i64, ptr %sunkaddr102, align 8
  %.159.i = inttoptr i64 %.150.i to ptr
  tail call void %.159.i(i64 %.45.i, i64 %.28.i.i, i64 %.25.i33, i64 %.13.i, i64 %.19.i, i64 %.28.i35)
  br label %B1988

B1988:                                            ; preds = %B538.i, %B316.i, %B1912
  %lsr.iv.next = add i64 %lsr.iv, 40
  %lsr.iv.next55 = add i64 %lsr.iv54, -1
  %exitcond529.not = icmp eq i64 %lsr.iv.next55, 0
  br i1 %exitcond529.not, label %B1990, label %B1822

B1990:                                            ; preds = %B1508.endif, %B1988
  %.964 = add nsw i64 %first.2.1, %.14
  %.972 = add nsw i64 %.13.i, %waiting.3.1
  %sunkaddr103 = inttoptr i64 %arg.call to ptr
  %sunkaddr104 = getelementptr i8, ptr %sunkaddr103, i64 192
  %.983 = load i64, ptr %sunkaddr104, align 8
  %.985 = icmp sge i64 %.972, %.983
  %.995 = icmp sge i64 %.964, %.209
  %or.cond = select i1 %.985, i1 true, i1 %.995
  br i1 %or.cond, label %B2082, label %B2242

B2082:                                            ; preds = %B1990
  %sunkaddr105 = inttoptr i64 %arg.call to ptr
  %sunkaddr106 = getelementptr i8, ptr %sunkaddr105, i64 184
  %.1002 = load i64, ptr %sunkaddr106, align 8
  %sunkaddr107 = inttoptr i64 %arg.call to ptr
  %sunkaddr108 = getelementptr i8, ptr %sunkaddr107, i64 128
  %.1006 = load i64, ptr %sunkaddr108, align 8
  %.1014 = inttoptr i64 %.1002 to ptr
  tail call void %.1014(i64 %.1006, i64 %.1012, i64 %.46, i64 0, i64 0, i64 0)
  br label %B2242

B2242:                                            ; preds = %B2082, %B1990
  %waiting.4.4 = phi i64 [ 0, %B2082 ], [ %.972, %B1990 ]
  %.1029 = icmp slt i64 %.964, %.209
  br i1 %.1029, label %B648.endif, label %B2256

B2256:                                            ; preds = %B2242, %B558
  %.155 = icmp sgt i64 %.154370432, 1
  br i1 %.155, label %B558, label %common.ret

common.ret.loopexit:                              ; preds = %B766
  br label %common.ret

common.ret:                                       ; preds = %common.ret.loopexit, %B2256, %B0.endif
  %excinfo.sink = phi ptr [ %retptr, %B0.endif ], [ %excinfo, %common.ret.loopexit ], [ %retptr, %B2256 ]
  %common.ret.op = phi i32 [ 0, %B0.endif ], [ %.333, %common.ret.loopexit ], [ 0, %B2256 ]
  store ptr null, ptr %excinfo.sink, align 8
  ret i32 %common.ret.op

B2261.loopexit.unr-lcssa:                         ; preds = %B1362
  %8 = and i64 %.548, 1
  %lcmp.mod.not = icmp eq i64 %8, 0
  %9 = add i64 %c.4.3328, %.698.1
  br i1 %lcmp.mod.not, label %B2261, label %B1362.epil.preheader

B1362.epil.preheader:                             ; preds = %B1362.lr.ph, %B2261.loopexit.unr-lcssa
  %c.6.4306.epil.init = phi i64 [ %c.4.3328, %B1362.lr.ph ], [ %9, %B2261.loopexit.unr-lcssa ]
  %.691302304.epil.init = phi i64 [ 0, %B1362.lr.ph ], [ %.698.1, %B2261.loopexit.unr-lcssa ]
  %10 = inttoptr i64 %.28 to ptr
  %sunkaddr109 = inttoptr i64 %arg.call to ptr
  %sunkaddr110 = getelementptr i8, ptr %sunkaddr109, i64 120
  %.726.epil = load i64, ptr %sunkaddr110, align 8
  %sunkaddr111 = inttoptr i64 %.483 to ptr
  %sunkaddr112 = getelementptr i8, ptr %sunkaddr111, i64 %.484
  %sunkaddr113 = getelementptr i8, ptr %sunkaddr112, i64 32
  %.730.epil = load i64, ptr %sunkaddr113, align 8
  %.731.epil = add nsw i64 %.730.epil, %.691302304.epil.init
  %.733.epil = mul nsw i64 %.61, %.731.epil
  %.734.epil = add nsw i64 %.733.epil, %.726.epil
  %.738.epil = getelementptr i64, ptr %10, i64 %c.6.4306.epil.init
  store i64 %.734.epil, ptr %.738.epil, align 8
  %.741.epil = add nsw i64 %c.6.4306.epil.init, 1
  br label %B2261

B2261:                                            ; preds = %B1302.endif, %B1198.endif, %B1022.endif, %B1362.epil.preheader, %B2261.loopexit.unr-lcssa
  %c.5.4 = phi i64 [ %.532, %B1022.endif ], [ %.590, %B1198.endif ], [ %c.4.3328, %B1302.endif ], [ %.741.epil, %B1362.epil.preheader ], [ %9, %B2261.loopexit.unr-lcssa ]
  %exitcond528.not = icmp eq i64 %.361, %.455
  br i1 %exitcond528.not, label %B1508.endif, label %B892

B648.endif:                                       ; preds = %B2242, %B648.preheader
  %waiting.3.1 = phi i64 [ %waiting.4.4, %B2242 ], [ 0, %B648.preheader ]
  %first.2.1 = phi i64 [ %.964, %B2242 ], [ %.203, %B648.preheader ]
  %11 = icmp ne i64 %.10, -1
  %12 = icmp ne i64 %.10, 0
  %.224 = sub nsw i64 %.209, %first.2.1
  %.13.i = tail call i64 @llvm.smin.i64(i64 %.224, i64 %.14)
  %const_mat = add i64 %const, 2
  %.272 = icmp ne i64 %.13.i, %const_mat
  %.274.not = or i1 %11, %.272
  %or.cond441 = select i1 %12, i1 %.274.not, i1 false
  br i1 %or.cond441, label %B648.endif.else.if, label %B708

B648.endif.else.if:                               ; preds = %B648.endif
  %13 = or i64 %.13.i, %.10
  %14 = and i64 %13, -4294967296
  %15 = icmp eq i64 %14, 0
  br i1 %15, label %16, label %21

16:                                               ; preds = %B648.endif.else.if
  %17 = trunc i64 %.10 to i32
  %18 = trunc i64 %.13.i to i32
  %19 = urem i32 %18, %17
  %20 = zext i32 %19 to i64
  br label %23

21:                                               ; preds = %B648.endif.else.if
  %22 = srem i64 %.13.i, %.10
  br label %23

23:                                               ; preds = %21, %16
  %24 = phi i64 [ %20, %16 ], [ %22, %21 ]
  %.279 = xor i64 %24, %.10
  %.280 = icmp slt i64 %.279, 0
  %.281 = icmp ne i64 %24, 0
  %.282 = and i1 %.281, %.280
  %.289 = select i1 %.282, i64 %.10, i64 0
  %.269.1 = sub i64 0, %.289
  %.299 = icmp eq i64 %24, %.269.1
  br i1 %.299, label %B708, label %B766

B766.endif.endif:                                 ; preds = %B766, %B766
  %sunkaddr114 = inttoptr i64 %arg.call to ptr
  %sunkaddr115 = getelementptr i8, ptr %sunkaddr114, i64 72
  %.361 = load i64, ptr %sunkaddr115, align 8
  %.442323.not = icmp slt i64 %.361, 1
  br i1 %.442323.not, label %B1508.endif, label %B892.preheader

B892.preheader:                                   ; preds = %B766.endif.endif
  br label %B892

B1022.endif:                                      ; preds = %B982
  %25 = inttoptr i64 %.28 to ptr
  %sunkaddr116 = inttoptr i64 %arg.call to ptr
  %sunkaddr117 = getelementptr i8, ptr %sunkaddr116, i64 16
  %.9.i = load i64, ptr %sunkaddr117, align 8
  %sunkaddr118 = inttoptr i64 %arg.call to ptr
  %sunkaddr119 = getelementptr i8, ptr %sunkaddr118, i64 40
  %.12.i = load i64, ptr %sunkaddr119, align 8
  %sunkaddr120 = inttoptr i64 %.483 to ptr
  %sunkaddr121 = getelementptr i8, ptr %sunkaddr120, i64 %.484
  %.15.i = load i64, ptr %sunkaddr121, align 8
  %.16.i = inttoptr i64 %.12.i to ptr
  %.17.i = getelementptr i64, ptr %.16.i, i64 %.15.i
  %.18.i = load i64, ptr %.17.i, align 8
  %sunkaddr122 = inttoptr i64 %.483 to ptr
  %sunkaddr123 = getelementptr i8, ptr %sunkaddr122, i64 %.484
  %sunkaddr124 = getelementptr i8, ptr %sunkaddr123, i64 8
  %.21.i = load i64, ptr %sunkaddr124, align 8
  %.27.i = mul i64 %first.2.1, %.9.i
  %.22.i = add i64 %.18.i, %.27.i
  %.28.i = add i64 %.22.i, %.21.i
  %.529 = getelementptr i64, ptr %25, i64 %c.4.3328
  store i64 %.28.i, ptr %.529, align 8
  %.532 = add nsw i64 %c.4.3328, 1
  br label %B2261

B1198.endif:                                      ; preds = %B1098
  %26 = inttoptr i64 %.28 to ptr
  %sunkaddr125 = inttoptr i64 %arg.call to ptr
  %sunkaddr126 = getelementptr i8, ptr %sunkaddr125, i64 16
  %.9.i13 = load i64, ptr %sunkaddr126, align 8
  %sunkaddr127 = inttoptr i64 %arg.call to ptr
  %sunkaddr128 = getelementptr i8, ptr %sunkaddr127, i64 40
  %.12.i15 = load i64, ptr %sunkaddr128, align 8
  %sunkaddr129 = inttoptr i64 %.483 to ptr
  %sunkaddr130 = getelementptr i8, ptr %sunkaddr129, i64 %.484
  %.15.i17 = load i64, ptr %sunkaddr130, align 8
  %.16.i18 = inttoptr i64 %.12.i15 to ptr
  %.17.i19 = getelementptr i64, ptr %.16.i18, i64 %.15.i17
  %.18.i20 = load i64, ptr %.17.i19, align 8
  %sunkaddr131 = inttoptr i64 %.483 to ptr
  %sunkaddr132 = getelementptr i8, ptr %sunkaddr131, i64 %.484
  %sunkaddr133 = getelementptr i8, ptr %sunkaddr132, i64 8
  %.21.i22 = load i64, ptr %sunkaddr133, align 8
  %.22.i23 = add nsw i64 %.21.i22, %.18.i20
  %sunkaddr134 = inttoptr i64 %.483 to ptr
  %sunkaddr135 = getelementptr i8, ptr %sunkaddr134, i64 %.484
  %sunkaddr136 = getelementptr i8, ptr %sunkaddr135, i64 16
  %.25.i25 = load i64, ptr %sunkaddr136, align 8
  %.26.i26 = mul i64 %.9.i13, %first.2.1
  %.27.i27 = mul i64 %.26.i26, %.25.i25
  %.28.i28 = add nsw i64 %.22.i23, %.27.i27
  %.581 = getelementptr i64, ptr %26, i64 %c.4.3328
  store i64 %.28.i28, ptr %.581, align 8
  %sunkaddr137 = inttoptr i64 %.483 to ptr
  %sunkaddr138 = getelementptr i8, ptr %sunkaddr137, i64 %.484
  %sunkaddr139 = getelementptr i8, ptr %sunkaddr138, i64 24
  %.586 = load i64, ptr %sunkaddr139, align 8
  %.590 = add nsw i64 %.586, %c.4.3328
  br label %B2261

B1302.endif:                                      ; preds = %B1098
  %.685303.not = icmp slt i64 %.548, 1
  br i1 %.685303.not, label %B2261, label %B1362.lr.ph

B1362.lr.ph:                                      ; preds = %B1302.endif
  %27 = icmp eq i64 %.548, 1
  br i1 %27, label %B1362.epil.preheader, label %B1362.lr.ph.new

B1362.lr.ph.new:                                  ; preds = %B1362.lr.ph
  %unroll_iter = and i64 %.548, %const
  %28 = shl i64 %c.4.3328, 3
  %scevgep50 = getelementptr i8, ptr %scevgep, i64 %28
  br label %B1362

B1508.endif:                                      ; preds = %B766.endif.endif, %B2261
  %sunkaddr140 = inttoptr i64 %arg.call to ptr
  %sunkaddr141 = getelementptr i8, ptr %sunkaddr140, i64 208
  %.766 = load i64, ptr %sunkaddr141, align 8
  %sunkaddr142 = inttoptr i64 %arg.call to ptr
  %sunkaddr143 = getelementptr i8, ptr %sunkaddr142, i64 24
  %.770 = load i64, ptr %sunkaddr143, align 8
  %sunkaddr144 = inttoptr i64 %arg.call to ptr
  %sunkaddr145 = getelementptr i8, ptr %sunkaddr144, i64 128
  %.774 = load i64, ptr %sunkaddr145, align 8
  %sunkaddr146 = inttoptr i64 %arg.call to ptr
  %sunkaddr147 = getelementptr i8, ptr %sunkaddr146, i64 120
  %.778 = load i64, ptr %sunkaddr147, align 8
  %.782 = inttoptr i64 %.766 to ptr
  tail call void %.782(i64 %.770, i64 %.24, i64 %.28, i64 %.774, i64 %.13.i, i64 %.778)
  %sunkaddr148 = inttoptr i64 %arg.call to ptr
  %sunkaddr149 = getelementptr i8, ptr %sunkaddr148, i64 72
  %.787 = load i64, ptr %sunkaddr149, align 8
  %.867335.not = icmp slt i64 %.787, 1
  br i1 %.867335.not, label %B1990, label %B1822.preheader

B1822.preheader:                                  ; preds = %B1508.endif
  br label %B1822
}

define internal noundef i32 @run_body.bring_inputs(ptr noalias writeonly captures(none) %retptr, ptr noalias readnone captures(none) %excinfo, i64 %arg.call, i64 %arg.first, i64 %arg.count, i64 %arg.sources, i8 %arg.direct) local_unnamed_addr {
entry:
  %.29 = inttoptr i64 %arg.call to ptr
  %.30 = getelementptr i8, ptr %.29, i64 16
  %.31 = load i64, ptr %.30, align 8
  %.37 = getelementptr i8, ptr %.29, i64 8
  %.38 = load i64, ptr %.37, align 8
  %.40 = mul i64 %.38, %.31
  %.46 = getelementptr i8, ptr %.29, i64 56
  %.47 = load i64, ptr %.46, align 8
  %.130153.not = icmp slt i64 %.47, 1
  br i1 %.130153.not, label %B1128, label %B196.lr.ph

B196.lr.ph:                                       ; preds = %entry
  %.208 = mul i64 %.31, %arg.first
  %.293 = mul i64 %.31, %arg.count
  %.304 = inttoptr i64 %arg.sources to ptr
  %scevgep = getelementptr i8, ptr %.304, i64 24
  %0 = mul i64 %.38, %.31
  %1 = shl i64 %0, 3
  %2 = mul i64 %.38, %.31
  %3 = mul i64 %.38, %.31
  %4 = mul i64 %.38, %.31
  %5 = mul i64 %.38, %.31
  %scevgep13 = getelementptr i8, ptr %.304, i64 56
  br label %B196

B196:                                             ; preds = %B1129, %B196.lr.ph
  %.136146156 = phi i64 [ 0, %B196.lr.ph ], [ %.143, %B1129 ]
  %6 = icmp ne i8 %arg.direct, 0
  %.143 = add nuw nsw i64 %.136146156, 1
  %sunkaddr = inttoptr i64 %arg.call to ptr
  %sunkaddr34 = getelementptr i8, ptr %sunkaddr, i64 48
  %.171 = load i64, ptr %sunkaddr34, align 8
  %.172 = mul nuw nsw i64 %.136146156, 40
  %.173 = add nsw i64 %.171, %.172
  %.174 = inttoptr i64 %.173 to ptr
  %.175 = getelementptr i8, ptr %.174, i64 16
  %.176 = load i64, ptr %.175, align 8
  %.178 = getelementptr i8, ptr %.174, i64 24
  %.179 = load i64, ptr %.178, align 8
  %.181 = getelementptr i8, ptr %.174, i64 32
  %.182 = load i64, ptr %.181, align 8
  %sunkaddr36 = inttoptr i64 %arg.call to ptr
  %sunkaddr37 = getelementptr i8, ptr %sunkaddr36, i64 32
  %.195 = load i64, ptr %sunkaddr37, align 8
  %.198 = load i64, ptr %.174, align 8
  %.199 = inttoptr i64 %.195 to ptr
  %.200 = getelementptr i64, ptr %.199, i64 %.198
  %.201 = load i64, ptr %.200, align 8
  %.203 = getelementptr i8, ptr %.174, i64 8
  %.204 = load i64, ptr %.203, align 8
  %.210 = mul i64 %.208, %.176
  %.205 = add i64 %.201, %.210
  %.211 = add i64 %.205, %.204
  %sunkaddr38 = inttoptr i64 %arg.call to ptr
  %sunkaddr39 = getelementptr i8, ptr %sunkaddr38, i64 120
  %.218 = load i64, ptr %sunkaddr39, align 8
  %.221 = mul i64 %.182, %.40
  %.222 = add i64 %.218, %.221
  %.229 = icmp eq i64 %.176, 1
  %or.cond = select i1 %6, i1 %.229, i1 false
  br i1 %or.cond, label %B1129.sink.split, label %B654

B654:                                             ; preds = %B196
  %.249 = icmp eq i64 %.179, 1
  br i1 %.249, label %B1024.thread, label %B896

B896:                                             ; preds = %B654
  %sunkaddr40 = inttoptr i64 %arg.call to ptr
  %sunkaddr41 = getelementptr i8, ptr %sunkaddr40, i64 144
  %.265 = load i64, ptr %sunkaddr41, align 8
  %sunkaddr42 = inttoptr i64 %arg.call to ptr
  %sunkaddr43 = getelementptr i8, ptr %sunkaddr42, i64 8
  %.269 = load i64, ptr %sunkaddr43, align 8
  %.275 = inttoptr i64 %.265 to ptr
  tail call void %.275(i64 %.222, i64 %.211, i64 %.176, i64 %arg.count, i64 %.269, i64 %.179)
  %.279 = icmp sgt i64 %.179, 1
  br i1 %.279, label %B908, label %B1129

B908:                                             ; preds = %B896
  %sunkaddr44 = inttoptr i64 %arg.call to ptr
  %sunkaddr45 = getelementptr i8, ptr %sunkaddr44, i64 200
  %.284 = load i64, ptr %sunkaddr45, align 8
  %.285 = icmp eq i64 %.284, 1
  br i1 %.285, label %B968, label %B1024

B968:                                             ; preds = %B908
  %.297 = mul i64 %.293, %.176
  %.299 = add nsw i64 %.211, %.297
  br label %B1129.sink.split

B1024:                                            ; preds = %B908
  %7 = icmp eq i64 %arg.sources, 0
  br i1 %7, label %B1129, label %B1068.lr.ph

B1024.thread:                                     ; preds = %B654
  %8 = icmp eq i64 %arg.sources, 0
  %sunkaddr46 = inttoptr i64 %arg.call to ptr
  %sunkaddr47 = getelementptr i8, ptr %sunkaddr46, i64 136
  %.254 = load i64, ptr %sunkaddr47, align 8
  %.259 = inttoptr i64 %.254 to ptr
  tail call void %.259(i64 %.222, i64 %.211, i64 %.176, i64 %arg.count, i64 0, i64 0)
  br i1 %8, label %B1129, label %B1068.epil.preheader

B1068:                                            ; preds = %B1068.lr.ph.new.new, %B1068
  %lsr.iv31 = phi i64 [ %lsr.iv.next32, %B1068 ], [ %unroll_iter9, %B1068.lr.ph.new.new ]
  %lsr.iv11 = phi i64 [ %lsr.iv.next12, %B1068 ], [ %.218, %B1068.lr.ph.new.new ]
  %.405140142 = phi i64 [ 0, %B1068.lr.ph.new.new ], [ %.412.3.1, %B1068 ]
  %9 = add i64 %.221, %lsr.iv11
  %10 = add i64 %43, %lsr.iv11
  %11 = add i64 %40, %lsr.iv11
  %12 = add i64 %36, %lsr.iv11
  %13 = shl i64 %.405140142, 3
  %scevgep24 = getelementptr i8, ptr %scevgep14, i64 %13
  %scevgep25 = getelementptr i8, ptr %scevgep24, i64 -32
  %scevgep30 = getelementptr i8, ptr %scevgep24, i64 -56
  store i64 %9, ptr %scevgep30, align 8
  %14 = shl i64 %.405140142, 3
  %scevgep28 = getelementptr i8, ptr %scevgep14, i64 %14
  %scevgep29 = getelementptr i8, ptr %scevgep28, i64 -48
  store i64 %10, ptr %scevgep29, align 8
  %15 = shl i64 %.405140142, 3
  %scevgep26 = getelementptr i8, ptr %scevgep14, i64 %15
  %scevgep27 = getelementptr i8, ptr %scevgep26, i64 -40
  store i64 %11, ptr %scevgep27, align 8
  store i64 %12, ptr %scevgep25, align 8
  %16 = add i64 %56, %lsr.iv11
  %17 = add i64 %54, %lsr.iv11
  %18 = add i64 %52, %lsr.iv11
  %19 = add i64 %50, %lsr.iv11
  %.412.3 = shl i64 %.405140142, 3
  %scevgep23 = getelementptr i8, ptr %scevgep14, i64 %.412.3
  %scevgep21 = getelementptr i8, ptr %scevgep14, i64 %.412.3
  %scevgep22 = getelementptr i8, ptr %scevgep21, i64 -24
  store i64 %19, ptr %scevgep22, align 8
  %scevgep17 = getelementptr i8, ptr %scevgep14, i64 %.412.3
  %scevgep18 = getelementptr i8, ptr %scevgep17, i64 -16
  store i64 %18, ptr %scevgep18, align 8
  %20 = shl i64 %.405140142, 3
  %scevgep15 = getelementptr i8, ptr %scevgep14, i64 %20
  %scevgep16 = getelementptr i8, ptr %scevgep15, i64 -8
  store i64 %17, ptr %scevgep16, align 8
  %.412.3.1 = add nuw i64 %.405140142, 8
  store i64 %16, ptr %scevgep23, align 8
  %lsr.iv.next12 = add i64 %lsr.iv11, %1
  %lsr.iv.next32 = add i64 %lsr.iv31, -2
  %niter.ncmp.1 = icmp eq i64 %lsr.iv.next32, 0
  br i1 %niter.ncmp.1, label %B1129.loopexit.unr-lcssa.unr-lcssa, label %B1068

B1128:                                            ; preds = %B1129, %entry
  store ptr null, ptr %retptr, align 8
  ret i32 0

B1129.sink.split:                                 ; preds = %B968, %B196
  %.299.sink = phi i64 [ %.299, %B968 ], [ %.211, %B196 ]
  %21 = inttoptr i64 %arg.sources to ptr
  %.305 = getelementptr i64, ptr %21, i64 %.182
  store i64 %.299.sink, ptr %.305, align 8
  br label %B1129

B1129.loopexit.unr-lcssa.unr-lcssa:               ; preds = %B1068
  %22 = and i64 %47, 1
  %lcmp.mod.not10 = icmp eq i64 %22, 0
  %23 = add i64 %.221, %lsr.iv.next12
  %24 = add i64 %43, %lsr.iv.next12
  %25 = add i64 %40, %lsr.iv.next12
  %26 = add i64 %36, %lsr.iv.next12
  br i1 %lcmp.mod.not10, label %B1129.loopexit.unr-lcssa, label %B1068.epil.preheader3

B1068.epil.preheader3:                            ; preds = %B1068.lr.ph.new, %B1129.loopexit.unr-lcssa.unr-lcssa
  %lsr.iv17.epil.init = phi i64 [ %.222, %B1068.lr.ph.new ], [ %23, %B1129.loopexit.unr-lcssa.unr-lcssa ]
  %lsr.iv15.epil.init = phi i64 [ %44, %B1068.lr.ph.new ], [ %24, %B1129.loopexit.unr-lcssa.unr-lcssa ]
  %lsr.iv13.epil.init = phi i64 [ %41, %B1068.lr.ph.new ], [ %25, %B1129.loopexit.unr-lcssa.unr-lcssa ]
  %lsr.iv.epil.init = phi i64 [ %37, %B1068.lr.ph.new ], [ %26, %B1129.loopexit.unr-lcssa.unr-lcssa ]
  %.405140142.epil.init7 = phi i64 [ 0, %B1068.lr.ph.new ], [ %.412.3.1, %B1129.loopexit.unr-lcssa.unr-lcssa ]
  %27 = shl i64 %.405140142.epil.init7, 3
  %scevgep11.epil = getelementptr i8, ptr %scevgep5, i64 %27
  %scevgep12.epil = getelementptr i8, ptr %scevgep11.epil, i64 -24
  store i64 %lsr.iv17.epil.init, ptr %scevgep12.epil, align 8
  %scevgep10.epil = getelementptr i8, ptr %scevgep11.epil, i64 -16
  store i64 %lsr.iv15.epil.init, ptr %scevgep10.epil, align 8
  %scevgep8.epil = getelementptr i8, ptr %scevgep11.epil, i64 -8
  store i64 %lsr.iv13.epil.init, ptr %scevgep8.epil, align 8
  store i64 %lsr.iv.epil.init, ptr %scevgep11.epil, align 8
  br label %B1129.loopexit.unr-lcssa

B1129.loopexit.unr-lcssa:                         ; preds = %B1068.epil.preheader3, %B1129.loopexit.unr-lcssa.unr-lcssa
  %lcmp.mod.not = icmp eq i64 %xtraiter, 0
  br i1 %lcmp.mod.not, label %B1129, label %B1068.epil.preheader

B1068.epil.preheader:                             ; preds = %B1068.lr.ph, %B1129.loopexit.unr-lcssa, %B1024.thread
  %xtraiter2 = phi i64 [ %xtraiter, %B1068.lr.ph ], [ %xtraiter, %B1129.loopexit.unr-lcssa ], [ 1, %B1024.thread ]
  %.405140142.epil.init = phi i64 [ 0, %B1068.lr.ph ], [ %unroll_iter, %B1129.loopexit.unr-lcssa ], [ 0, %B1024.thread ]
  %28 = inttoptr i64 %arg.sources to ptr
  %29 = add i64 %.405140142.epil.init, %.182
  %30 = shl i64 %29, 3
  %scevgep19 = getelementptr i8, ptr %28, i64 %30
  %31 = mul i64 %29, %.40
  %32 = add i64 %31, %.218
  br label %B1068.epil

B1068.epil:                                       ; preds = %B1068.epil, %B1068.epil.preheader
  %lsr.iv21 = phi i64 [ %lsr.iv.next22, %B1068.epil ], [ %32, %B1068.epil.preheader ]
  %epil.iter = phi i64 [ %epil.iter.next, %B1068.epil ], [ 0, %B1068.epil.preheader ]
  %33 = shl i64 %epil.iter, 3
  %scevgep33 = getelementptr i8, ptr %scevgep19, i64 %33
  store i64 %lsr.iv21, ptr %scevgep33, align 8
  %epil.iter.next = add i64 %epil.iter, 1
  %lsr.iv.next22 = add i64 %lsr.iv21, %.40
  %epil.iter.cmp.not = icmp eq i64 %xtraiter2, %epil.iter.next
  br i1 %epil.iter.cmp.not, label %B1129, label %B1068.epil

B1129:                                            ; preds = %B1068.epil, %B1129.loopexit.unr-lcssa, %B1129.sink.split, %B1024.thread, %B1024, %B896
  %exitcond162.not = icmp eq i64 %.143, %.47
  br i1 %exitcond162.not, label %B1128, label %B196

B1068.lr.ph:                                      ; preds = %B1024
  %xtraiter = and i64 %.179, 3
  %34 = icmp samesign ult i64 %.179, 4
  br i1 %34, label %B1068.epil.preheader, label %B1068.lr.ph.new

B1068.lr.ph.new:                                  ; preds = %B1068.lr.ph
  %const = bitcast i64 9223372036854775804 to i64
  %unroll_iter = and i64 %.179, %const
  %35 = add i64 %.182, 3
  %36 = mul i64 %35, %.40
  %37 = add i64 %.218, %36
  %38 = shl i64 %.182, 3
  %scevgep5 = getelementptr i8, ptr %scevgep, i64 %38
  %39 = add i64 %.182, 2
  %40 = mul i64 %39, %.40
  %41 = add i64 %.218, %40
  %42 = add i64 %.182, 1
  %43 = mul i64 %42, %.40
  %44 = add i64 %.218, %43
  %45 = add nsw i64 %.179, -4
  %46 = lshr i64 %45, 2
  %47 = add nuw nsw i64 %46, 1
  %48 = icmp eq i64 %46, 0
  br i1 %48, label %B1068.epil.preheader3, label %B1068.lr.ph.new.new

B1068.lr.ph.new.new:                              ; preds = %B1068.lr.ph.new
  %const_mat = add i64 %const, 2
  %unroll_iter9 = and i64 %47, %const_mat
  %49 = add i64 %.182, 4
  %50 = mul i64 %2, %49
  %51 = add i64 %.182, 5
  %52 = mul i64 %3, %51
  %53 = add i64 %.182, 6
  %54 = mul i64 %4, %53
  %55 = add i64 %.182, 7
  %56 = mul i64 %5, %55
  %scevgep14 = getelementptr i8, ptr %scevgep13, i64 %38
  br label %B1068
}

define void @jitgrad_run_body(i64 %call) {
  %result = alloca ptr
  %exception = alloca ptr
  call i32 @run_body(ptr %result, ptr %exception, i64 %call)
  ret void
}

define range(i32 -1, -2) i32 @run_tape(ptr noalias writeonly captures(none) %retptr, ptr noalias writeonly captures(none) %excinfo, i64 %arg.call) local_unnamed_addr {
B0.endif:
  %.244 = alloca ptr, align 8
  %excinfo.1 = alloca ptr, align 8
  %.777 = alloca ptr, align 8
  %excinfo.4 = alloca ptr, align 8
  %.8 = inttoptr i64 %arg.call to ptr
  %.9 = getelementptr i8, ptr %.8, i64 8
  %.10 = load i64, ptr %.9, align 8
  %.13 = getelementptr i8, ptr %.8, i64 16
  %.14 = load i64, ptr %.13, align 8
  %.17 = getelementptr i8, ptr %.8, i64 208
  %.18 = load i64, ptr %.17, align 8
  %.21 = getelementptr i8, ptr %.8, i64 120
  %.22 = load i64, ptr %.21, align 8
  %.61 = getelementptr i8, ptr %.8, i64 80
  %.62 = load i64, ptr %.61, align 8
  %.65 = getelementptr i8, ptr %.8, i64 104
  %.66 = load i64, ptr %.65, align 8
  %.69 = getelementptr i8, ptr %.8, i64 112
  %.70 = load i64, ptr %.69, align 8
  %.82 = getelementptr i8, ptr %.8, i64 304
  %.83 = load i64, ptr %.82, align 8
  %.89 = getelementptr i8, ptr %.8, i64 320
  %.90 = load i64, ptr %.89, align 8
  %.93 = getelementptr i8, ptr %.8, i64 224
  %.94 = load i64, ptr %.93, align 8
  %.96 = mul nsw i64 %.94, %.14
  %.98 = add nsw i64 %.96, %.18
  %.101 = getelementptr i8, ptr %.8, i64 24
  %.102 = load i64, ptr %.101, align 8
  %.105 = getelementptr i8, ptr %.8, i64 216
  %.106 = load i64, ptr %.105, align 8
  %.109 = getelementptr i8, ptr %.8, i64 232
  %.110 = load i64, ptr %.109, align 8
  %.111 = inttoptr i64 %.90 to ptr
  tail call void %.111(i64 %.98, i64 %.102, i64 %.106, i64 %.110, i64 0, i64 0)
  %.115 = getelementptr i8, ptr %.8, i64 264
  %.116 = load i64, ptr %.115, align 8
  %.198341.not = icmp slt i64 %.116, 1
  br i1 %.198341.not, label %B920.endif, label %B800.lr.ph

B800.lr.ph:                                       ; preds = %B0.endif
  br label %B800

B800:                                             ; preds = %B798.backedge, %B800.lr.ph
  %lsr.iv54 = phi i64 [ %.116, %B800.lr.ph ], [ %lsr.iv.next55, %B798.backedge ]
  %lsr.iv52 = phi i64 [ 0, %B800.lr.ph ], [ %lsr.iv.next53, %B798.backedge ]
  %sunkaddr = inttoptr i64 %arg.call to ptr
  %sunkaddr56 = getelementptr i8, ptr %sunkaddr, i64 256
  %.239 = load i64, ptr %sunkaddr56, align 8
  %0 = add i64 %lsr.iv52, %.239
  %.248 = call i32 @run_tape.run_line(ptr nonnull %.244, ptr nonnull %excinfo.1, i64 %arg.call, i64 %.18, i64 %0, i64 1)
  switch i32 %.248, label %common.ret.loopexit33 [
    i32 -2, label %B798.backedge
    i32 0, label %B798.backedge
  ]

B798.backedge:                                    ; preds = %B800, %B800
  %lsr.iv.next53 = add i64 %lsr.iv52, 40
  %lsr.iv.next55 = add i64 %lsr.iv54, -1
  %exitcond.not = icmp eq i64 %lsr.iv.next55, 0
  br i1 %exitcond.not, label %B920.endif, label %B800

B1000:                                            ; preds = %B1000.lr.ph, %B1000
  %lsr.iv50 = phi i64 [ %.276, %B1000.lr.ph ], [ %lsr.iv.next51, %B1000 ]
  %lsr.iv48 = phi i64 [ 0, %B1000.lr.ph ], [ %lsr.iv.next49, %B1000 ]
  %sunkaddr57 = inttoptr i64 %arg.call to ptr
  %sunkaddr58 = getelementptr i8, ptr %sunkaddr57, i64 240
  %.397 = load i64, ptr %sunkaddr58, align 8
  %1 = add i64 %lsr.iv48, %.397
  %sunkaddr59 = inttoptr i64 %arg.call to ptr
  %sunkaddr60 = getelementptr i8, ptr %sunkaddr59, i64 312
  %.403 = load i64, ptr %sunkaddr60, align 8
  %.404 = inttoptr i64 %1 to ptr
  %.406 = load i64, ptr %.404, align 8
  %.410 = mul i64 %.408, %.406
  %.412 = add nsw i64 %.410, %.22
  %.414 = getelementptr i8, ptr %.404, i64 8
  %.415 = load i64, ptr %.414, align 8
  %.417 = mul nsw i64 %.415, %.14
  %.419 = add nsw i64 %.417, %.18
  %.421 = inttoptr i64 %.403 to ptr
  tail call void %.421(i64 %.412, i64 %.419, i64 %.10, i64 0, i64 0, i64 0)
  %lsr.iv.next49 = add nuw i64 %lsr.iv48, 40
  %lsr.iv.next51 = add i64 %lsr.iv50, -1
  %exitcond529.not = icmp eq i64 %lsr.iv.next51, 0
  br i1 %exitcond529.not, label %B1264.endif, label %B1000

B1396:                                            ; preds = %B1396.lr.ph, %B2470
  %.519400452 = phi i64 [ %.476, %B1396.lr.ph ], [ %.529, %B2470 ]
  %.526404451 = phi i64 [ %.435, %B1396.lr.ph ], [ %.533, %B2470 ]
  %.529 = add nsw i64 %.519400452, -1
  %.533 = add i64 %.526404451, 1
  %sunkaddr61 = inttoptr i64 %.62 to ptr
  %sunkaddr62 = mul i64 %.526404451, 8
  %sunkaddr63 = getelementptr i8, ptr %sunkaddr61, i64 %sunkaddr62
  %.565 = load i64, ptr %sunkaddr63, align 8
  %sunkaddr64 = inttoptr i64 %.62 to ptr
  %sunkaddr65 = mul i64 %.533, 8
  %sunkaddr66 = getelementptr i8, ptr %sunkaddr64, i64 %sunkaddr65
  %.571 = load i64, ptr %sunkaddr66, align 8
  %.579 = icmp slt i64 %.565, %.571
  br i1 %.579, label %B1482.preheader, label %B2470

B1482.preheader:                                  ; preds = %B1396
  %factor.op.mul.reass = mul i64 %factor.op.mul373, %.526404451
  %.990 = add nsw i64 %factor.op.mul.reass, %.66
  br label %B1482.endif

B1638:                                            ; preds = %B1638.preheader, %B1636.backedge
  %lsr.iv38 = phi i64 [ %.650, %B1638.preheader ], [ %lsr.iv.next39, %B1636.backedge ]
  %lsr.iv36 = phi i64 [ 0, %B1638.preheader ], [ %lsr.iv.next37, %B1636.backedge ]
  %sunkaddr67 = inttoptr i64 %arg.call to ptr
  %sunkaddr68 = getelementptr i8, ptr %sunkaddr67, i64 272
  %.771 = load i64, ptr %sunkaddr68, align 8
  %2 = add i64 %lsr.iv36, %.771
  %.781 = call i32 @run_tape.run_line(ptr nonnull %.777, ptr nonnull %excinfo.4, i64 %arg.call, i64 %.22, i64 %2, i64 %.10)
  switch i32 %.781, label %common.ret.loopexit [
    i32 -2, label %B1636.backedge
    i32 0, label %B1636.backedge
  ]

B1636.backedge:                                   ; preds = %B1638, %B1638
  %lsr.iv.next37 = add i64 %lsr.iv36, 40
  %lsr.iv.next39 = add i64 %lsr.iv38, -1
  %exitcond530.not = icmp eq i64 %lsr.iv.next39, 0
  br i1 %exitcond530.not, label %B1758.endif, label %B1638

B1838:                                            ; preds = %B1838.preheader, %B1838
  %lsr.iv42 = phi i64 [ %.809, %B1838.preheader ], [ %lsr.iv.next43, %B1838 ]
  %lsr.iv40 = phi i64 [ 0, %B1838.preheader ], [ %lsr.iv.next41, %B1838 ]
  %3 = inttoptr i64 %arg.call to ptr
  %sunkaddr69 = inttoptr i64 %arg.call to ptr
  %sunkaddr70 = getelementptr i8, ptr %sunkaddr69, i64 288
  %.930 = load i64, ptr %sunkaddr70, align 8
  %4 = add i64 %lsr.iv40, %.930
  %.937 = inttoptr i64 %4 to ptr
  %.939 = load i64, ptr %.937, align 8
  %.944 = icmp slt i64 %.939, 0
  %switch.selectcmp = icmp eq i64 %.939, 1
  %switch.select = select i1 %switch.selectcmp, i64 47, i64 48
  %switch.selectcmp325 = icmp eq i64 %.939, 0
  %switch.select326 = select i1 %switch.selectcmp325, i64 49, i64 %switch.select
  %"$phi2086.2.4.4" = select i1 %.944, i64 51, i64 %switch.select326
  %.976 = getelementptr i64, ptr %3, i64 %"$phi2086.2.4.4"
  %.977 = load i64, ptr %.976, align 8
  %.980 = getelementptr i8, ptr %.937, i64 16
  %.981 = load i64, ptr %.980, align 8
  %.982 = shl nsw i64 %.981, 2
  %.984 = add nsw i64 %.982, %.83
  %.993 = getelementptr i8, ptr %.937, i64 8
  %.994 = load i64, ptr %.993, align 8
  %.1000 = inttoptr i64 %.977 to ptr
  tail call void %.1000(i64 %.22, i64 %.984, i64 %.990, i64 %.994, i64 %.10, i64 %.13.i)
  %lsr.iv.next41 = add nuw i64 %lsr.iv40, 40
  %lsr.iv.next43 = add i64 %lsr.iv42, -1
  %exitcond531.not = icmp eq i64 %lsr.iv.next43, 0
  br i1 %exitcond531.not, label %B2246.endif, label %B1838

B2326:                                            ; preds = %B2326.preheader, %B2324.backedge
  %lsr.iv46 = phi i64 [ %.1010, %B2326.preheader ], [ %lsr.iv.next47, %B2324.backedge ]
  %lsr.iv44 = phi i64 [ 0, %B2326.preheader ], [ %lsr.iv.next45, %B2324.backedge ]
  %sunkaddr71 = inttoptr i64 %arg.call to ptr
  %sunkaddr72 = getelementptr i8, ptr %sunkaddr71, i64 64
  %.1131 = load i64, ptr %sunkaddr72, align 8
  %5 = add i64 %lsr.iv44, %.1131
  %sunkaddr73 = inttoptr i64 %arg.call to ptr
  %sunkaddr74 = getelementptr i8, ptr %sunkaddr73, i64 16
  %.15.i = load i64, ptr %sunkaddr74, align 8
  %sunkaddr75 = inttoptr i64 %arg.call to ptr
  %sunkaddr76 = getelementptr i8, ptr %sunkaddr75, i64 8
  %.19.i = load i64, ptr %sunkaddr76, align 8
  %.23.i = inttoptr i64 %5 to ptr
  %.24.i = getelementptr i8, ptr %.23.i, i64 16
  %.25.i = load i64, ptr %.24.i, align 8
  %.27.i = getelementptr i8, ptr %.23.i, i64 24
  %.28.i = load i64, ptr %.27.i, align 8
  %sunkaddr77 = inttoptr i64 %arg.call to ptr
  %sunkaddr78 = getelementptr i8, ptr %sunkaddr77, i64 120
  %.38.i = load i64, ptr %sunkaddr78, align 8
  %.40.i = getelementptr i8, ptr %.23.i, i64 32
  %.41.i = load i64, ptr %.40.i, align 8
  %.43.i = mul i64 %.19.i, %.15.i
  %.44.i = mul i64 %.43.i, %.41.i
  %.45.i = add nsw i64 %.44.i, %.38.i
  %sunkaddr79 = inttoptr i64 %arg.call to ptr
  %sunkaddr80 = getelementptr i8, ptr %sunkaddr79, i64 40
  %.12.i.i = load i64, ptr %sunkaddr80, align 8
  %.15.i.i = load i64, ptr %.23.i, align 8
  %.16.i.i = inttoptr i64 %.12.i.i to ptr
  %.17.i.i = getelementptr i64, ptr %.16.i.i, i64 %.15.i.i
  %.18.i.i = load i64, ptr %.17.i.i, align 8
  %.20.i.i = getelementptr i8, ptr %.23.i, i64 8
  %.21.i.i = load i64, ptr %.20.i.i, align 8
  %.26.i.i = mul i64 %.15.i, %first.2.1
  %.27.i.i = mul i64 %.26.i.i, %.25.i
  %.22.i.i = add i64 %.18.i.i, %.27.i.i
  %.28.i.i = add i64 %.22.i.i, %.21.i.i
  %.80.i = icmp eq i64 %.28.i, 1
  br i1 %.80.i, label %B316.i, label %B538.i

B316.i:                                           ; preds = %B2326
  %6 = inttoptr i64 %arg.call to ptr
  %sunkaddr81 = inttoptr i64 %arg.call to ptr
  %sunkaddr82 = getelementptr i8, ptr %sunkaddr81, i64 176
  %.89.i = load i64, ptr %sunkaddr82, align 8
  %.90.i = icmp eq i64 %.89.i, 1
  %.96.i = icmp eq i64 %.25.i, 1
  %or.cond.i = select i1 %.90.i, i1 %.96.i, i1 false
  %"$phi506.2.2.0.in.v.i" = select i1 %or.cond.i, i64 160, i64 152
  %"$phi506.2.2.0.in.i" = getelementptr i8, ptr %6, i64 %"$phi506.2.2.0.in.v.i"
  %"$phi506.2.2.0.i" = load i64, ptr %"$phi506.2.2.0.in.i", align 8
  %.131.i = inttoptr i64 %"$phi506.2.2.0.i" to ptr
  tail call void %.131.i(i64 %.45.i, i64 %.28.i.i, i64 %.25.i, i64 %.13.i, i64 0, i64 0)
  br label %B2324.backedge

B538.i:                                           ; preds = %B2326
  %sunkaddr83 = inttoptr i64 %arg.call to ptr
  %sunkaddr84 = getelementptr i8, ptr %sunkaddr83, i64 168
  %.150.i = load i64, ptr %sunkaddr84, align 8
  %.159.i = inttoptr i64 %.150.i to ptr
  tail call void %.159.i(i64 %.45.i, i64 %.28.i.i, i64 %.25.i, i64 %.13.i, i64 %.19.i, i64 %.28.i)
  br label %B2324.backedge

B2324.backedge:                                   ; preds = %B538.i, %B316.i
  %lsr.iv.next45 = add nuw i64 %lsr.iv44, 40
  %lsr.iv.next47 = add i64 %lsr.iv46, -1
  %exitcond532.not = icmp eq i64 %lsr.iv.next47, 0
  br i1 %exitcond532.not, label %B2446, label %B2326

B2446:                                            ; preds = %B2246.endif, %B2324.backedge
  %.1170 = add nsw i64 %first.2.1, %.10
  %.1174 = icmp slt i64 %.1170, %.571
  br i1 %.1174, label %B1482.endif, label %B2470

B2470:                                            ; preds = %B2446, %B1396
  %.520 = icmp sgt i64 %.519400452, 1
  br i1 %.520, label %B1396, label %common.ret

common.ret.loopexit:                              ; preds = %B1638
  br label %common.ret

common.ret.loopexit33:                            ; preds = %B800
  br label %common.ret

common.ret:                                       ; preds = %B1264.endif, %common.ret.loopexit33, %common.ret.loopexit, %B2470
  %excinfo.sink = phi ptr [ %excinfo, %common.ret.loopexit33 ], [ %retptr, %B1264.endif ], [ %excinfo, %common.ret.loopexit ], [ %retptr, %B2470 ]
  %common.ret.op = phi i32 [ %.248, %common.ret.loopexit33 ], [ 0, %B1264.endif ], [ %.781, %common.ret.loopexit ], [ 0, %B2470 ]
  store ptr null, ptr %excinfo.sink, align 8
  ret i32 %common.ret.op

B920.endif:                                       ; preds = %B798.backedge, %B0.endif
  %7 = inttoptr i64 %arg.call to ptr
  %.275 = getelementptr i8, ptr %7, i64 248
  %.276 = load i64, ptr %.275, align 8
  %.356347.not = icmp slt i64 %.276, 1
  br i1 %.356347.not, label %B1264.endif, label %B1000.lr.ph

B1000.lr.ph:                                      ; preds = %B920.endif
  %.408 = mul i64 %.14, %.10
  br label %B1000

B1264.endif:                                      ; preds = %B920.endif, %B1000
  %8 = inttoptr i64 %arg.call to ptr
  %.434 = getelementptr i8, ptr %8, i64 88
  %.435 = load i64, ptr %.434, align 8
  %.438 = getelementptr i8, ptr %8, i64 96
  %.439 = load i64, ptr %.438, align 8
  %.476 = sub i64 %.439, %.435
  %.520444.not = icmp slt i64 %.476, 1
  br i1 %.520444.not, label %common.ret, label %B1396.lr.ph

B1396.lr.ph:                                      ; preds = %B1264.endif
  %factor.op.mul373 = shl i64 %.70, 3
  br label %B1396

B1482.endif:                                      ; preds = %B2446, %B1482.preheader
  %first.2.1 = phi i64 [ %.1170, %B2446 ], [ %.565, %B1482.preheader ]
  %.586 = sub nsw i64 %.571, %first.2.1
  %.13.i = tail call i64 @llvm.smin.i64(i64 %.586, i64 %.10)
  %sunkaddr85 = inttoptr i64 %arg.call to ptr
  %sunkaddr86 = getelementptr i8, ptr %sunkaddr85, i64 16
  %.31.i = load i64, ptr %sunkaddr86, align 8
  %sunkaddr87 = inttoptr i64 %arg.call to ptr
  %sunkaddr88 = getelementptr i8, ptr %sunkaddr87, i64 8
  %.38.i13 = load i64, ptr %sunkaddr88, align 8
  %.40.i14 = mul i64 %.38.i13, %.31.i
  %sunkaddr89 = inttoptr i64 %arg.call to ptr
  %sunkaddr90 = getelementptr i8, ptr %sunkaddr89, i64 56
  %.47.i = load i64, ptr %sunkaddr90, align 8
  %.130153.not.i = icmp slt i64 %.47.i, 1
  br i1 %.130153.not.i, label %B1482.endif.endif.endif, label %B196.lr.ph.i

B196.lr.ph.i:                                     ; preds = %B1482.endif
  %.208.i = mul i64 %.31.i, %first.2.1
  br label %B196.i

B196.i:                                           ; preds = %B1129.i, %B196.lr.ph.i
  %lsr.iv34 = phi i64 [ %lsr.iv.next35, %B1129.i ], [ %.47.i, %B196.lr.ph.i ]
  %lsr.iv = phi i64 [ %lsr.iv.next, %B1129.i ], [ 0, %B196.lr.ph.i ]
  %sunkaddr91 = inttoptr i64 %arg.call to ptr
  %sunkaddr92 = getelementptr i8, ptr %sunkaddr91, i64 48
  %.171.i = load i64, ptr %sunkaddr92, align 8
  %9 = add i64 %lsr.iv, %.171.i
  %.174.i = inttoptr i64 %9 to ptr
  %.175.i = getelementptr i8, ptr %.174.i, i64 16
  %.176.i = load i64, ptr %.175.i, align 8
  %.178.i = getelementptr i8, ptr %.174.i, i64 24
  %.179.i = load i64, ptr %.178.i, align 8
  %.181.i = getelementptr i8, ptr %.174.i, i64 32
  %.182.i = load i64, ptr %.181.i, align 8
  %sunkaddr93 = inttoptr i64 %arg.call to ptr
  %sunkaddr94 = getelementptr i8, ptr %sunkaddr93, i64 32
  %.195.i = load i64, ptr %sunkaddr94, align 8
  %.198.i = load i64, ptr %.174.i, align 8
  %.199.i = inttoptr i64 %.195.i to ptr
  %.200.i = getelementptr i64, ptr %.199.i, i64 %.198.i
  %.201.i = load i64, ptr %.200.i, align 8
  %.203.i = getelementptr i8, ptr %.174.i, i64 8
  %.204.i = load i64, ptr %.203.i, align 8
  %.210.i = mul i64 %.208.i, %.176.i
  %.205.i = add i64 %.201.i, %.210.i
  %.211.i = add i64 %.205.i, %.204.i
  %sunkaddr95 = inttoptr i64 %arg.call to ptr
  %sunkaddr96 = getelementptr i8, ptr %sunkaddr95, i64 120
  %.218.i = load i64, ptr %sunkaddr96, align 8
  %.221.i = mul i64 %.40.i14, %.182.i
  %.222.i = add i64 %.218.i, %.221.i
  %.249.i = icmp eq i64 %.179.i, 1
  br i1 %.249.i, label %B1024.thread.i, label %B896.i

B896.i:                                           ; preds = %B196.i
  %sunkaddr97 = inttoptr i64 %arg.call to ptr
  %sunkaddr98 = getelementptr i8, ptr %sunkaddr97, i64 144
  %.265.i = load i64, ptr %sunkaddr98, align 8
  %sunkaddr99 = inttoptr i64 %arg.call to ptr
  %sunkaddr100 = getelementptr i8, ptr %sunkaddr99, i64 8
  %.269.i = load i64, ptr %sunkaddr100, align 8
  %.275.i = inttoptr i64 %.265.i to ptr
  tail call void %.275.i(i64 %.222.i, i64 %.211.i, i64 %.176.i, i64 %.13.i, i64 %.269.i, i64 %.179.i)
  %.279.i = icmp sgt i64 %.179.i, 1
  br i1 %.279.i, label %B908.i, label %B1129.i

B908.i:                                           ; preds = %B896.i
  %sunkaddr101 = inttoptr i64 %arg.call to ptr
  %sunkaddr102 = getelementptr i8, ptr %sunkaddr101, i64 200
  %.284.i = load i64, ptr %sunkaddr102, align 8
  %.285.i = icmp eq i64 %.284.i, 1
  br i1 %.285.i, label %B968.i, label %B1129.i

B968.i:                                           ; preds = %B908.i
  %.305.i = getelementptr i64, ptr null, i64 %.182.i
  store i64 poison, ptr %.305.i, align 8
  br label %B1129.i

B1024.thread.i:                                   ; preds = %B196.i
  %sunkaddr103 = inttoptr i64 %arg.call to ptr
  %sunkaddr104 = getelementptr i8, ptr %sunkaddr103, i64 136
  %.254.i = load i64, ptr %sunkaddr104, align 8
  %.259.i = inttoptr i64 %.254.i to ptr
  tail call void %.259.i(i64 %.222.i, i64 %.211.i, i64 %.176.i, i64 %.13.i, i64 0, i64 0)
  br label %B1129.i

B1129.i:                                          ; preds = %B1024.thread.i, %B968.i, %B908.i, %B896.i
  %lsr.iv.next = add nuw i64 %lsr.iv, 40
  %lsr.iv.next35 = add i64 %lsr.iv34, -1
  %exitcond162.not.i = icmp eq i64 %lsr.iv.next35, 0
  br i1 %exitcond162.not.i, label %B1482.endif.endif.endif, label %B196.i

B1482.endif.endif.endif:                          ; preds = %B1129.i, %B1482.endif
  %sunkaddr105 = inttoptr i64 %arg.call to ptr
  %sunkaddr106 = getelementptr i8, ptr %sunkaddr105, i64 280
  %.650 = load i64, ptr %sunkaddr106, align 8
  %.730354.not = icmp slt i64 %.650, 1
  br i1 %.730354.not, label %B1758.endif, label %B1638.preheader

B1638.preheader:                                  ; preds = %B1482.endif.endif.endif
  br label %B1638

B1758.endif:                                      ; preds = %B1482.endif.endif.endif, %B1636.backedge
  %sunkaddr107 = inttoptr i64 %arg.call to ptr
  %sunkaddr108 = getelementptr i8, ptr %sunkaddr107, i64 296
  %.809 = load i64, ptr %sunkaddr108, align 8
  %.889361.not = icmp slt i64 %.809, 1
  br i1 %.889361.not, label %B2246.endif, label %B1838.preheader

B1838.preheader:                                  ; preds = %B1758.endif
  br label %B1838

B2246.endif:                                      ; preds = %B1758.endif, %B1838
  %sunkaddr109 = inttoptr i64 %arg.call to ptr
  %sunkaddr110 = getelementptr i8, ptr %sunkaddr109, i64 72
  %.1010 = load i64, ptr %sunkaddr110, align 8
  %.1090368.not = icmp slt i64 %.1010, 1
  br i1 %.1090368.not, label %B2446, label %B2326.preheader

B2326.preheader:                                  ; preds = %B2246.endif
  br label %B2326
}

define internal noundef i32 @run_tape.run_line(ptr noalias writeonly captures(none) initializes((0, 8)) %retptr, ptr noalias readnone captures(none) %excinfo, i64 %arg.call, i64 %arg.v, i64 %arg.line, i64 %arg.tile) local_unnamed_addr {
B0:
  %.14 = inttoptr i64 %arg.line to ptr
  %.16 = load i64, ptr %.14, align 8
  %.18 = getelementptr i8, ptr %.14, i64 8
  %.19 = load i64, ptr %.18, align 8
  %.21 = getelementptr i8, ptr %.14, i64 16
  %.22 = load i64, ptr %.21, align 8
  %.24 = getelementptr i8, ptr %.14, i64 24
  %.25 = load i64, ptr %.24, align 8
  %.27 = getelementptr i8, ptr %.14, i64 32
  %.28 = load i64, ptr %.27, align 8
  %.75 = inttoptr i64 %arg.call to ptr
  %.76 = getelementptr i8, ptr %.75, i64 304
  %.77 = load i64, ptr %.76, align 8
  %.82 = icmp sgt i64 %.16, -1
  br i1 %.82, label %B234, label %B340

common.ret:                                       ; preds = %B976, %B816, %B576, %B464, %B352, %B234
  store ptr null, ptr %retptr, align 8
  ret i32 0

B234:                                             ; preds = %B0
  %0 = inttoptr i64 %arg.call to ptr
  %.88 = getelementptr i8, ptr %0, i64 328
  %.89 = load i64, ptr %.88, align 8
  %.93 = shl nsw i64 %.25, 2
  %.97 = add nsw i64 %.77, %.93
  %.105 = inttoptr i64 %.89 to ptr
  tail call void %.105(i64 %.16, i64 %arg.v, i64 %.97, i64 %.19, i64 %.22, i64 %arg.tile)
  br label %common.ret

B340:                                             ; preds = %B0
  switch i64 %.16, label %B976 [
    i64 -1, label %B352
    i64 -2, label %B464
    i64 -3, label %B576
    i64 -5, label %B816
  ]

B352:                                             ; preds = %B340
  %1 = inttoptr i64 %arg.call to ptr
  %.128 = getelementptr i8, ptr %1, i64 336
  %.129 = load i64, ptr %.128, align 8
  %.134 = sub nsw i64 %.22, %.19
  %.142 = inttoptr i64 %.129 to ptr
  tail call void %.142(i64 %arg.v, i64 %.77, i64 %.25, i64 %.19, i64 %.134, i64 %arg.tile)
  br label %common.ret

B464:                                             ; preds = %B340
  %2 = inttoptr i64 %arg.call to ptr
  %.165 = getelementptr i8, ptr %2, i64 344
  %.166 = load i64, ptr %.165, align 8
  %.171 = sub nsw i64 %.22, %.19
  %.179 = inttoptr i64 %.166 to ptr
  tail call void %.179(i64 %arg.v, i64 %.77, i64 %.25, i64 %.19, i64 %.171, i64 %arg.tile)
  br label %common.ret

B576:                                             ; preds = %B340
  %3 = inttoptr i64 %arg.call to ptr
  %.200 = sub nsw i64 %.22, %.19
  %.203 = icmp eq i64 %.200, 1
  %"$phi696.0.2.0.in.v" = select i1 %.203, i64 352, i64 360
  %"$phi696.0.2.0.in" = getelementptr i8, ptr %3, i64 %"$phi696.0.2.0.in.v"
  %"$phi696.0.2.0" = load i64, ptr %"$phi696.0.2.0.in", align 8
  %.225 = getelementptr i8, ptr %3, i64 208
  %.226 = load i64, ptr %.225, align 8
  %.230 = shl nsw i64 %.25, 2
  %.234 = add nsw i64 %.77, %.230
  %.241 = inttoptr i64 %"$phi696.0.2.0" to ptr
  tail call void %.241(i64 %arg.v, i64 %.226, i64 %.234, i64 %.19, i64 %.28, i64 %arg.tile)
  br label %common.ret

B816:                                             ; preds = %B340
  %4 = inttoptr i64 %arg.call to ptr
  %.262 = getelementptr i8, ptr %4, i64 400
  %.263 = load i64, ptr %.262, align 8
  %.266 = getelementptr i8, ptr %4, i64 208
  %.267 = load i64, ptr %.266, align 8
  %.271 = shl nsw i64 %.25, 2
  %.275 = add nsw i64 %.77, %.271
  %.280 = sub nsw i64 %.22, %.19
  %.286 = inttoptr i64 %.263 to ptr
  tail call void %.286(i64 %arg.v, i64 %.267, i64 %.275, i64 %.19, i64 %.280, i64 %arg.tile)
  br label %common.ret

B976:                                             ; preds = %B340
  %5 = inttoptr i64 %arg.call to ptr
  %.300 = getelementptr i8, ptr %5, i64 368
  %.301 = load i64, ptr %.300, align 8
  %.304 = getelementptr i8, ptr %5, i64 208
  %.305 = load i64, ptr %.304, align 8
  %.309 = shl nsw i64 %.25, 2
  %.313 = add nsw i64 %.77, %.309
  %.320 = inttoptr i64 %.301 to ptr
  tail call void %.320(i64 %arg.v, i64 %.305, i64 %.313, i64 %.19, i64 %.28, i64 %arg.tile)
  br label %common.ret
}

define void @jitgrad_run_tape(i64 %call) {
  %result = alloca ptr
  %exception = alloca ptr
  call i32 @run_tape(ptr %result, ptr %exception, i64 %call)
  ret void
}

define noundef i32 @run_steps(ptr noalias writeonly captures(none) %retptr, ptr noalias readnone captures(none) %excinfo, i64 %arg.steps) local_unnamed_addr {
B0.endif:
  %.8 = inttoptr i64 %arg.steps to ptr
  %.10 = load i64, ptr %.8, align 8
  %.13 = getelementptr i8, ptr %.8, i64 160
  %.14 = load i64, ptr %.13, align 8
  %.17 = getelementptr i8, ptr %.8, i64 80
  %.18 = load i64, ptr %.17, align 8
  %.29 = inttoptr i64 %.10 to ptr
  %.30 = getelementptr i8, ptr %.29, i64 112
  %.31 = load i64, ptr %.30, align 8
  %.34 = getelementptr i8, ptr %.8, i64 120
  %.35 = load i64, ptr %.34, align 8
  %.44 = getelementptr i8, ptr %.8, i64 56
  %.45 = load i64, ptr %.44, align 8
  %.128175.not = icmp slt i64 %.45, 1
  br i1 %.128175.not, label %common.ret, label %B346.lr.ph

B346.lr.ph:                                       ; preds = %B0.endif
  %.197 = shl i64 %.31, 3
  br label %B346

B346:                                             ; preds = %B2290, %B346.lr.ph
  %.134165178 = phi i64 [ 0, %B346.lr.ph ], [ %.141, %B2290 ]
  %0 = inttoptr i64 %.14 to ptr
  %.141 = add nuw nsw i64 %.134165178, 1
  %sunkaddr = inttoptr i64 %arg.steps to ptr
  %sunkaddr3 = getelementptr i8, ptr %sunkaddr, i64 48
  %.172 = load i64, ptr %sunkaddr3, align 8
  %.174 = mul nuw nsw i64 %.134165178, 40
  %.175 = add nsw i64 %.172, %.174
  %.176 = inttoptr i64 %.175 to ptr
  %.178 = load i64, ptr %.176, align 8
  %.180 = getelementptr i8, ptr %.176, i64 8
  %.181 = load i64, ptr %.180, align 8
  %sunkaddr4 = inttoptr i64 %.10 to ptr
  %sunkaddr5 = getelementptr i8, ptr %sunkaddr4, i64 88
  store i64 %.178, ptr %sunkaddr5, align 8
  %sunkaddr6 = inttoptr i64 %.10 to ptr
  %sunkaddr7 = getelementptr i8, ptr %sunkaddr6, i64 96
  store i64 %.181, ptr %sunkaddr7, align 8
  %.191 = getelementptr i8, ptr %.176, i64 16
  %.192 = load i64, ptr %.191, align 8
  %sunkaddr8 = inttoptr i64 %.10 to ptr
  %sunkaddr9 = getelementptr i8, ptr %sunkaddr8, i64 8
  store i64 %.192, ptr %sunkaddr9, align 8
  %.199 = mul i64 %.197, %.178
  %.201 = sub nsw i64 %.18, %.199
  %sunkaddr10 = inttoptr i64 %.10 to ptr
  %sunkaddr11 = getelementptr i8, ptr %sunkaddr10, i64 104
  store i64 %.201, ptr %sunkaddr11, align 8
  %sunkaddr12 = inttoptr i64 %arg.steps to ptr
  %sunkaddr13 = getelementptr i8, ptr %sunkaddr12, i64 8
  %.209 = load i64, ptr %sunkaddr13, align 8
  %.211 = inttoptr i64 %.209 to ptr
  tail call void %.211(i64 %.10, i64 0, i64 0, i64 0, i64 0, i64 0)
  %sunkaddr14 = inttoptr i64 %arg.steps to ptr
  %sunkaddr15 = getelementptr i8, ptr %sunkaddr14, i64 16
  %.216 = load i64, ptr %sunkaddr15, align 8
  %.217 = sub nsw i64 %.181, %.178
  %.219 = getelementptr i8, ptr %.176, i64 24
  %.220 = load i64, ptr %.219, align 8
  %sunkaddr16 = inttoptr i64 %arg.steps to ptr
  %sunkaddr17 = getelementptr i8, ptr %sunkaddr16, i64 88
  %.224 = load i64, ptr %sunkaddr17, align 8
  %.228 = inttoptr i64 %.216 to ptr
  tail call void %.228(i64 %.18, i64 %.217, i64 %.31, i64 %.220, i64 %.14, i64 %.224)
  %sunkaddr18 = inttoptr i64 %arg.steps to ptr
  %sunkaddr19 = getelementptr i8, ptr %sunkaddr18, i64 152
  %.233 = load i64, ptr %sunkaddr19, align 8
  %.237 = load i64, ptr %0, align 8
  %.239 = inttoptr i64 %.233 to ptr
  %.240 = getelementptr i64, ptr %.239, i64 %.134165178
  store i64 %.237, ptr %.240, align 8
  %sunkaddr20 = inttoptr i64 %.14 to ptr
  %sunkaddr21 = getelementptr i8, ptr %sunkaddr20, i64 8
  %.245 = load i64, ptr %sunkaddr21, align 8
  %.246.not = icmp eq i64 %.245, 0
  br i1 %.246.not, label %B1176, label %common.ret

common.ret:                                       ; preds = %B2290, %B1422, %B346, %B0.endif
  store ptr null, ptr %retptr, align 8
  ret i32 0

B1176:                                            ; preds = %B346
  %sunkaddr22 = inttoptr i64 %arg.steps to ptr
  %sunkaddr23 = getelementptr i8, ptr %sunkaddr22, i64 176
  %.269 = load i64, ptr %sunkaddr23, align 8
  %.270.not = icmp eq i64 %.269, 0
  br i1 %.270.not, label %B1422, label %B1236

B1236:                                            ; preds = %B1176
  %sunkaddr24 = inttoptr i64 %arg.steps to ptr
  %sunkaddr25 = getelementptr i8, ptr %sunkaddr24, i64 88
  %.279 = load i64, ptr %sunkaddr25, align 8
  %sunkaddr26 = inttoptr i64 %arg.steps to ptr
  %sunkaddr27 = getelementptr i8, ptr %sunkaddr26, i64 184
  %.283 = load i64, ptr %sunkaddr27, align 8
  %.285 = inttoptr i64 %.269 to ptr
  tail call void %.285(i64 %.279, i64 %.35, i64 %.283, i64 0, i64 0, i64 0)
  br label %B1422

B1422:                                            ; preds = %B1236, %B1176
  %sunkaddr28 = inttoptr i64 %arg.steps to ptr
  %sunkaddr29 = getelementptr i8, ptr %sunkaddr28, i64 24
  %.291 = load i64, ptr %sunkaddr29, align 8
  %sunkaddr30 = inttoptr i64 %arg.steps to ptr
  %sunkaddr31 = getelementptr i8, ptr %sunkaddr30, i64 64
  %.295 = load i64, ptr %sunkaddr31, align 8
  %sunkaddr32 = inttoptr i64 %arg.steps to ptr
  %sunkaddr33 = getelementptr i8, ptr %sunkaddr32, i64 72
  %.299 = load i64, ptr %sunkaddr33, align 8
  %.301 = mul nsw i64 %.299, %.134165178
  %.302 = add nsw i64 %.301, %.295
  %sunkaddr34 = inttoptr i64 %arg.steps to ptr
  %sunkaddr35 = getelementptr i8, ptr %sunkaddr34, i64 96
  %.306 = load i64, ptr %sunkaddr35, align 8
  %sunkaddr36 = inttoptr i64 %arg.steps to ptr
  %sunkaddr37 = getelementptr i8, ptr %sunkaddr36, i64 104
  %.310 = load i64, ptr %sunkaddr37, align 8
  %sunkaddr38 = inttoptr i64 %arg.steps to ptr
  %sunkaddr39 = getelementptr i8, ptr %sunkaddr38, i64 112
  %.314 = load i64, ptr %sunkaddr39, align 8
  %.316 = inttoptr i64 %.291 to ptr
  tail call void %.316(i64 %.302, i64 %.306, i64 %.310, i64 %.314, i64 %.35, i64 0)
  %sunkaddr40 = inttoptr i64 %arg.steps to ptr
  %sunkaddr41 = getelementptr i8, ptr %sunkaddr40, i64 32
  %.321 = load i64, ptr %sunkaddr41, align 8
  %sunkaddr42 = inttoptr i64 %arg.steps to ptr
  %sunkaddr43 = getelementptr i8, ptr %sunkaddr42, i64 128
  %.325 = load i64, ptr %sunkaddr43, align 8
  %.328 = inttoptr i64 %.321 to ptr
  tail call void %.328(i64 %.325, i64 %.14, i64 %.35, i64 0, i64 0, i64 0)
  %sunkaddr44 = inttoptr i64 %.14 to ptr
  %sunkaddr45 = getelementptr i8, ptr %sunkaddr44, i64 8
  %.333 = load i64, ptr %sunkaddr45, align 8
  %.334.not = icmp eq i64 %.333, 0
  br i1 %.334.not, label %B1948.endif, label %common.ret

B2028:                                            ; preds = %B2028.preheader, %B2028
  %lsr.iv1 = phi i64 [ %.357, %B2028.preheader ], [ %lsr.iv.next2, %B2028 ]
  %lsr.iv = phi i64 [ 0, %B2028.preheader ], [ %lsr.iv.next, %B2028 ]
  %sunkaddr46 = inttoptr i64 %arg.steps to ptr
  %sunkaddr47 = getelementptr i8, ptr %sunkaddr46, i64 136
  %.478 = load i64, ptr %sunkaddr47, align 8
  %1 = add i64 %lsr.iv, %.478
  %sunkaddr48 = inttoptr i64 %arg.steps to ptr
  %sunkaddr49 = getelementptr i8, ptr %sunkaddr48, i64 40
  %.484 = load i64, ptr %sunkaddr49, align 8
  %.485 = inttoptr i64 %1 to ptr
  %.487 = load i64, ptr %.485, align 8
  %.489 = getelementptr i8, ptr %.485, i64 8
  %.490 = load i64, ptr %.489, align 8
  %.492 = getelementptr i8, ptr %.485, i64 16
  %.493 = load i64, ptr %.492, align 8
  %.494 = inttoptr i64 %.484 to ptr
  tail call void %.494(i64 %.487, i64 %.490, i64 %.493, i64 0, i64 0, i64 0)
  %lsr.iv.next = add nuw i64 %lsr.iv, 40
  %lsr.iv.next2 = add i64 %lsr.iv1, -1
  %exitcond.not = icmp eq i64 %lsr.iv.next2, 0
  br i1 %exitcond.not, label %B2290, label %B2028

B2290:                                            ; preds = %B1948.endif, %B2028
  %sunkaddr50 = inttoptr i64 %arg.steps to ptr
  %sunkaddr51 = getelementptr i8, ptr %sunkaddr50, i64 168
  store i64 %.141, ptr %sunkaddr51, align 8
  %exitcond188.not = icmp eq i64 %.141, %.45
  br i1 %exitcond188.not, label %common.ret, label %B346

B1948.endif:                                      ; preds = %B1422
  %sunkaddr52 = inttoptr i64 %arg.steps to ptr
  %sunkaddr53 = getelementptr i8, ptr %sunkaddr52, i64 144
  %.357 = load i64, ptr %sunkaddr53, align 8
  %.437159.not = icmp slt i64 %.357, 1
  br i1 %.437159.not, label %B2290, label %B2028.preheader

B2028.preheader:                                  ; preds = %B1948.endif
  br label %B2028
}

define void @jitgrad_run_steps(i64 %call) {
  %result = alloca ptr
  %exception = alloca ptr
  call i32 @run_steps(ptr %result, ptr %exception, i64 %call)
  ret void
}

declare i64 @llvm.smin.i64(i64, i64)
