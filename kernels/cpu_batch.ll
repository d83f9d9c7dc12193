; Made by `python -m jitgrad.kernels.ahead` from kernels/cpu_batch.py with numba 0.68.1; do not edit.

define range(i32 -1, -2) i32 @run_body(ptr noalias writeonly captures(none) %retptr, ptr noalias writeonly captures(none) %excinfo, i64 %arg.call) local_unnamed_addr {
B0.endif:
  %.325 = alloca ptr, align 8
  %excinfo.2 = alloca ptr, align 8
  %.8 = inttoptr i64 %arg.call to ptr
  %.10 = load i64, ptr %.8, align 8
  %.13 = getelementptr i8, ptr %.8, i64 8
  %.14 = load i64, ptr %.13, align 8
  %.23 = getelementptr i8, ptr %.8, i64 192
  %.24 = load i64, ptr %.23, align 8
  %.27 = getelementptr i8, ptr %.8, i64 200
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
  %factor.op.mul261 = shl i64 %.46, 3
  %.155294.not = icmp slt i64 %.109, 1
  br i1 %.155294.not, label %common.ret, label %B558.lr.ph

B558.lr.ph:                                       ; preds = %B0.endif
  %0 = inttoptr i64 %arg.call to ptr
  %.37 = getelementptr i8, ptr %0, i64 80
  %.38 = load i64, ptr %.37, align 8
  br label %B558

B558:                                             ; preds = %B1788, %B558.lr.ph
  %.154262300 = phi i64 [ %.109, %B558.lr.ph ], [ %.164, %B1788 ]
  %.161266299 = phi i64 [ %.68, %B558.lr.ph ], [ %.168, %B1788 ]
  %1 = inttoptr i64 %.38 to ptr
  %.164 = add nsw i64 %.154262300, -1
  %.168 = add i64 %.161266299, 1
  %.199 = getelementptr i64, ptr %1, i64 %.161266299
  %.200 = load i64, ptr %.199, align 8
  %.205 = getelementptr i8, ptr %.199, i64 8
  %.206 = load i64, ptr %.205, align 8
  %.214 = icmp slt i64 %.200, %.206
  br i1 %.214, label %B644.preheader, label %B1788

B644.preheader:                                   ; preds = %B558
  %factor.op.mul.reass = mul i64 %factor.op.mul261, %.161266299
  %.623 = add nsw i64 %factor.op.mul.reass, %.42
  br label %B644.endif

B704:                                             ; preds = %18, %B644.endif
  %sunkaddr = inttoptr i64 %arg.call to ptr
  %sunkaddr32 = getelementptr i8, ptr %sunkaddr, i64 168
  %.309 = load i64, ptr %sunkaddr32, align 8
  %.310 = icmp eq i64 %.309, 0
  br label %B762

B762:                                             ; preds = %18, %B704
  %.296210 = phi i8 [ 1, %B704 ], [ 0, %18 ]
  %"$phi762.1.2.3" = phi i1 [ %.310, %B704 ], [ false, %18 ]
  %.330 = call i32 @run_body.bring_inputs(ptr nonnull %.325, ptr nonnull %excinfo.2, i64 %arg.call, i64 %first.2.1, i64 %.13.i, i64 %.24, i8 %.296210)
  switch i32 %.330, label %common.ret.loopexit [
    i32 -2, label %B762.endif.endif
    i32 0, label %B762.endif.endif
  ]

B882:                                             ; preds = %B882.preheader, %B1160
  %lsr.iv = phi i64 [ 0, %B882.preheader ], [ %lsr.iv.next, %B1160 ]
  %.441233235 = phi i64 [ %.448, %B1160 ], [ 0, %B882.preheader ]
  %.448 = add nuw nsw i64 %.441233235, 1
  %sunkaddr33 = inttoptr i64 %arg.call to ptr
  %sunkaddr34 = getelementptr i8, ptr %sunkaddr33, i64 64
  %.479 = load i64, ptr %sunkaddr34, align 8
  br i1 %"$phi762.1.2.3", label %B1010, label %B1010.thread

B1010.thread:                                     ; preds = %B882
  %sunkaddr35 = inttoptr i64 %arg.call to ptr
  %sunkaddr36 = getelementptr i8, ptr %sunkaddr35, i64 120
  %.506197 = load i64, ptr %sunkaddr36, align 8
  %sunkaddr37 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr38 = getelementptr i8, ptr %sunkaddr37, i64 %.479
  %sunkaddr39 = getelementptr i8, ptr %sunkaddr38, i64 24
  %.510200 = load i64, ptr %sunkaddr39, align 8
  %.514201 = mul nsw i64 %.510200, %.61
  %.515202 = add nsw i64 %.514201, %.506197
  br label %B1160

B1010:                                            ; preds = %B882
  %sunkaddr40 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr41 = getelementptr i8, ptr %sunkaddr40, i64 %.479
  %sunkaddr42 = getelementptr i8, ptr %sunkaddr41, i64 16
  %.495 = load i64, ptr %sunkaddr42, align 8
  %.496 = icmp eq i64 %.495, 1
  %sunkaddr43 = inttoptr i64 %arg.call to ptr
  %sunkaddr44 = getelementptr i8, ptr %sunkaddr43, i64 120
  %.506 = load i64, ptr %sunkaddr44, align 8
  %sunkaddr45 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr46 = getelementptr i8, ptr %sunkaddr45, i64 %.479
  %sunkaddr47 = getelementptr i8, ptr %sunkaddr46, i64 24
  %.510 = load i64, ptr %sunkaddr47, align 8
  %.514 = mul nsw i64 %.510, %.61
  %.515 = add nsw i64 %.514, %.506
  br i1 %.496, label %B1124, label %B1160

B1124:                                            ; preds = %B1010
  %sunkaddr48 = inttoptr i64 %arg.call to ptr
  %sunkaddr49 = getelementptr i8, ptr %sunkaddr48, i64 40
  %.14.i = load i64, ptr %sunkaddr49, align 8
  %sunkaddr50 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr51 = getelementptr i8, ptr %sunkaddr50, i64 %.479
  %.17.i = load i64, ptr %sunkaddr51, align 8
  %.18.i = inttoptr i64 %.14.i to ptr
  %.19.i = getelementptr i64, ptr %.18.i, i64 %.17.i
  %.20.i = load i64, ptr %.19.i, align 8
  %sunkaddr52 = inttoptr i64 %lsr.iv to ptr
  %sunkaddr53 = getelementptr i8, ptr %sunkaddr52, i64 %.479
  %sunkaddr54 = getelementptr i8, ptr %sunkaddr53, i64 8
  %.23.i = load i64, ptr %sunkaddr54, align 8
  %.24.i = add nsw i64 %.23.i, %.20.i
  %sunkaddr55 = inttoptr i64 %arg.call to ptr
  %sunkaddr56 = getelementptr i8, ptr %sunkaddr55, i64 16
  %.31.i = load i64, ptr %sunkaddr56, align 8
  %.32.i = mul nsw i64 %first.2.1, %.31.i
  %.33.i = add nsw i64 %.24.i, %.32.i
  br label %B1160

B1160:                                            ; preds = %B1124, %B1010, %B1010.thread
  %"$phi1160.6.2.4" = phi i64 [ %.515, %B1010 ], [ %.515202, %B1010.thread ], [ %.33.i, %B1124 ]
  %2 = inttoptr i64 %.28 to ptr
  %3 = shl i64 %.441233235, 3
  %scevgep = getelementptr i8, ptr %2, i64 %3
  store i64 %"$phi1160.6.2.4", ptr %scevgep, align 8
  %lsr.iv.next = add i64 %lsr.iv, 40
  %exitcond.not = icmp eq i64 %.355, %.448
  br i1 %exitcond.not, label %B1178.endif, label %B882

B1600:                                            ; preds = %B1600.preheader, %B1762
  %lsr.iv30 = phi i64 [ %.630, %B1600.preheader ], [ %lsr.iv.next31, %B1762 ]
  %lsr.iv28 = phi i64 [ 0, %B1600.preheader ], [ %lsr.iv.next29, %B1762 ]
  %sunkaddr57 = inttoptr i64 %arg.call to ptr
  %sunkaddr58 = getelementptr i8, ptr %sunkaddr57, i64 64
  %.19.i11.pre = load i64, ptr %sunkaddr58, align 8
  br i1 %"$phi762.1.2.3", label %B1606, label %B1726

B1606:                                            ; preds = %B1600
  %sunkaddr59 = inttoptr i64 %lsr.iv28 to ptr
  %sunkaddr60 = getelementptr i8, ptr %sunkaddr59, i64 %.19.i11.pre
  %sunkaddr61 = getelementptr i8, ptr %sunkaddr60, i64 16
  %.762 = load i64, ptr %sunkaddr61, align 8
  %.763 = icmp eq i64 %.762, 1
  br i1 %.763, label %B1762, label %B1726

B1726:                                            ; preds = %B1606, %B1600
  %4 = inttoptr i64 %arg.call to ptr
  %sunkaddr62 = inttoptr i64 %arg.call to ptr
  %sunkaddr63 = getelementptr i8, ptr %sunkaddr62, i64 120
  %.29.i = load i64, ptr %sunkaddr63, align 8
  %sunkaddr64 = inttoptr i64 %lsr.iv28 to ptr
  %sunkaddr65 = getelementptr i8, ptr %sunkaddr64, i64 %.19.i11.pre
  %sunkaddr66 = getelementptr i8, ptr %sunkaddr65, i64 24
  %.33.i16 = load i64, ptr %sunkaddr66, align 8
  %sunkaddr67 = inttoptr i64 %arg.call to ptr
  %sunkaddr68 = getelementptr i8, ptr %sunkaddr67, i64 8
  %.37.i = load i64, ptr %sunkaddr68, align 8
  %sunkaddr69 = inttoptr i64 %arg.call to ptr
  %sunkaddr70 = getelementptr i8, ptr %sunkaddr69, i64 16
  %.42.i = load i64, ptr %sunkaddr70, align 8
  %sunkaddr71 = inttoptr i64 %arg.call to ptr
  %sunkaddr72 = getelementptr i8, ptr %sunkaddr71, i64 168
  %.51.i = load i64, ptr %sunkaddr72, align 8
  %.52.i = icmp eq i64 %.51.i, 1
  %sunkaddr73 = inttoptr i64 %lsr.iv28 to ptr
  %sunkaddr74 = getelementptr i8, ptr %sunkaddr73, i64 %.19.i11.pre
  %sunkaddr75 = getelementptr i8, ptr %sunkaddr74, i64 16
  %.60.i = load i64, ptr %sunkaddr75, align 8
  %.61.i = icmp eq i64 %.60.i, 1
  %5 = select i1 %.52.i, i1 %.61.i, i1 false
  %.sink.i = select i1 %5, i64 160, i64 152
  %.38.i = mul nsw i64 %.37.i, %.33.i16
  %.43.i = mul nsw i64 %.38.i, %.42.i
  %.44.i = add nsw i64 %.43.i, %.29.i
  %.79.i = getelementptr i8, ptr %4, i64 %.sink.i
  %"$phi488.0.2.0.i" = load i64, ptr %.79.i, align 8
  %sunkaddr76 = inttoptr i64 %arg.call to ptr
  %sunkaddr77 = getelementptr i8, ptr %sunkaddr76, i64 40
  %.14.i.i = load i64, ptr %sunkaddr77, align 8
  %sunkaddr78 = inttoptr i64 %lsr.iv28 to ptr
  %sunkaddr79 = getelementptr i8, ptr %sunkaddr78, i64 %.19.i11.pre
  %.17.i.i = load i64, ptr %sunkaddr79, align 8
  %.18.i.i = inttoptr i64 %.14.i.i to ptr
  %.19.i.i = getelementptr i64, ptr %.18.i.i, i64 %.17.i.i
  %.20.i.i = load i64, ptr %.19.i.i, align 8
  %sunkaddr80 = inttoptr i64 %lsr.iv28 to ptr
  %sunkaddr81 = getelementptr i8, ptr %sunkaddr80, i64 %.19.i11.pre
  %sunkaddr82 = getelementptr i8, ptr %sunkaddr81, i64 8
  %.23.i.i = load i64, ptr %sunkaddr82, align 8
  %.28.i.i = mul i64 %.42.i, %first.2.1
  %.32.i.i = mul i64 %.28.i.i, %.60.i
  %.24.i.i = add i64 %.20.i.i, %.32.i.i
  %.33.i.i = add i64 %.24.i.i, %.23.i.i
  %.130.i = inttoptr i64 %"$phi488.0.2.0.i" to ptr
  tail call void %.130.i(i64 %.44.i, i64 %.33.i.i, i64 %.60.i, i64 %.13.i, i64 0, i64 0)
  br label %B1762

B1762:                                            ; preds = %B1726, %B1606
  %lsr.iv.next29 = add i64 %lsr.iv28, 40
  %lsr.iv.next31 = add i64 %lsr.iv30, -1
  %exitcond354.not = icmp eq i64 %lsr.iv.next31, 0
  br i1 %exitcond354.not, label %B1764, label %B1600

B1764:                                            ; preds = %B1178.endif, %B1762
  %.809 = add nsw i64 %first.2.1, %.14
  %.813 = icmp slt i64 %.809, %.206
  br i1 %.813, label %B644.endif, label %B1788

B1788:                                            ; preds = %B1764, %B558
  %.155 = icmp sgt i64 %.154262300, 1
  br i1 %.155, label %B558, label %common.ret

common.ret.loopexit:                              ; preds = %B762
  br label %common.ret

common.ret:                                       ; preds = %common.ret.loopexit, %B1788, %B0.endif
  %excinfo.sink = phi ptr [ %retptr, %B0.endif ], [ %excinfo, %common.ret.loopexit ], [ %retptr, %B1788 ]
  %common.ret.op = phi i32 [ 0, %B0.endif ], [ %.330, %common.ret.loopexit ], [ 0, %B1788 ]
  store ptr null, ptr %excinfo.sink, align 8
  ret i32 %common.ret.op

B644.endif:                                       ; preds = %B1764, %B644.preheader
  %first.2.1 = phi i64 [ %.809, %B1764 ], [ %.200, %B644.preheader ]
  %6 = icmp ne i64 %.10, -1
  %7 = icmp ne i64 %.10, 0
  %.221 = sub nsw i64 %.206, %first.2.1
  %.13.i = tail call i64 @llvm.smin.i64(i64 %.221, i64 %.14)
  %.269 = icmp ne i64 %.13.i, -9223372036854775808
  %.271.not = or i1 %6, %.269
  %or.cond = select i1 %7, i1 %.271.not, i1 false
  br i1 %or.cond, label %B644.endif.else.if, label %B704

B644.endif.else.if:                               ; preds = %B644.endif
  %8 = or i64 %.13.i, %.10
  %9 = and i64 %8, -4294967296
  %10 = icmp eq i64 %9, 0
  br i1 %10, label %11, label %16

11:                                               ; preds = %B644.endif.else.if
  %12 = trunc i64 %.10 to i32
  %13 = trunc i64 %.13.i to i32
  %14 = urem i32 %13, %12
  %15 = zext i32 %14 to i64
  br label %18

16:                                               ; preds = %B644.endif.else.if
  %17 = srem i64 %.13.i, %.10
  br label %18

18:                                               ; preds = %16, %11
  %19 = phi i64 [ %15, %11 ], [ %17, %16 ]
  %.276 = xor i64 %19, %.10
  %.277 = icmp slt i64 %.276, 0
  %.278 = icmp ne i64 %19, 0
  %.279 = and i1 %.278, %.277
  %.286 = select i1 %.279, i64 %.10, i64 0
  %.266.1 = sub i64 0, %.286
  %.296 = icmp eq i64 %19, %.266.1
  br i1 %.296, label %B704, label %B762

B762.endif.endif:                                 ; preds = %B762, %B762
  %sunkaddr83 = inttoptr i64 %arg.call to ptr
  %sunkaddr84 = getelementptr i8, ptr %sunkaddr83, i64 72
  %.355 = load i64, ptr %sunkaddr84, align 8
  %.435234.not = icmp slt i64 %.355, 1
  br i1 %.435234.not, label %B1178.endif, label %B882.preheader

B882.preheader:                                   ; preds = %B762.endif.endif
  br label %B882

B1178.endif:                                      ; preds = %B762.endif.endif, %B1160
  %sunkaddr85 = inttoptr i64 %arg.call to ptr
  %sunkaddr86 = getelementptr i8, ptr %sunkaddr85, i64 184
  %.596 = load i64, ptr %sunkaddr86, align 8
  %sunkaddr87 = inttoptr i64 %arg.call to ptr
  %sunkaddr88 = getelementptr i8, ptr %sunkaddr87, i64 24
  %.600 = load i64, ptr %sunkaddr88, align 8
  %sunkaddr89 = inttoptr i64 %arg.call to ptr
  %sunkaddr90 = getelementptr i8, ptr %sunkaddr89, i64 128
  %.604 = load i64, ptr %sunkaddr90, align 8
  %.608 = inttoptr i64 %.596 to ptr
  tail call void %.608(i64 %.600, i64 %.24, i64 %.28, i64 %.604, i64 %.13.i, i64 0)
  %sunkaddr91 = inttoptr i64 %arg.call to ptr
  %sunkaddr92 = getelementptr i8, ptr %sunkaddr91, i64 176
  %.613 = load i64, ptr %sunkaddr92, align 8
  %.617 = load i64, ptr %sunkaddr90, align 8
  %.625 = inttoptr i64 %.613 to ptr
  tail call void %.625(i64 %.617, i64 %.623, i64 %.46, i64 0, i64 0, i64 0)
  %sunkaddr93 = inttoptr i64 %arg.call to ptr
  %sunkaddr94 = getelementptr i8, ptr %sunkaddr93, i64 72
  %.630 = load i64, ptr %sunkaddr94, align 8
  %.710240.not = icmp slt i64 %.630, 1
  br i1 %.710240.not, label %B1764, label %B1600.preheader

B1600.preheader:                                  ; preds = %B1178.endif
  br label %B1600
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
  %.130141.not = icmp slt i64 %.47, 1
  br i1 %.130141.not, label %B1000, label %B196.lr.ph

B196.lr.ph:                                       ; preds = %entry
  %const = bitcast i64 9223372036854775804 to i64
  %.208 = mul i64 %.31, %arg.first
  %.416 = inttoptr i64 %arg.sources to ptr
  %scevgep = getelementptr i8, ptr %.416, i64 24
  %0 = mul i64 %.38, %.31
  %1 = shl i64 %0, 3
  %2 = mul i64 %.38, %.31
  %3 = mul i64 %.38, %.31
  %4 = mul i64 %.38, %.31
  %5 = mul i64 %.38, %.31
  %scevgep13 = getelementptr i8, ptr %.416, i64 56
  br label %B196

B196:                                             ; preds = %B1001, %B196.lr.ph
  %.136134144 = phi i64 [ 0, %B196.lr.ph ], [ %.143, %B1001 ]
  %6 = icmp ne i8 %arg.direct, 0
  %.143 = add nuw nsw i64 %.136134144, 1
  %sunkaddr = inttoptr i64 %arg.call to ptr
  %sunkaddr34 = getelementptr i8, ptr %sunkaddr, i64 48
  %.171 = load i64, ptr %sunkaddr34, align 8
  %.172 = mul nuw nsw i64 %.136134144, 40
  %.173 = add nsw i64 %.171, %.172
  %.174 = inttoptr i64 %.173 to ptr
  %.175 = getelementptr i8, ptr %.174, i64 16
  %.176 = load i64, ptr %.175, align 8
  %.178 = getelementptr i8, ptr %.174, i64 24
  %.179 = load i64, ptr %.178, align 8
  %.181 = getelementptr i8, ptr %.174, i64 32
  %.182 = load i64, ptr %.181, align 8
  %sunkaddr35 = inttoptr i64 %arg.call to ptr
  %sunkaddr36 = getelementptr i8, ptr %sunkaddr35, i64 32
  %.195 = load i64, ptr %sunkaddr36, align 8
  %.198 = load i64, ptr %.174, align 8
  %.199 = inttoptr i64 %.195 to ptr
  %.200 = getelementptr i64, ptr %.199, i64 %.198
  %.201 = load i64, ptr %.200, align 8
  %.203 = getelementptr i8, ptr %.174, i64 8
  %.204 = load i64, ptr %.203, align 8
  %.210 = mul i64 %.208, %.176
  %.205 = add i64 %.201, %.210
  %.211 = add i64 %.205, %.204
  %sunkaddr37 = inttoptr i64 %arg.call to ptr
  %sunkaddr38 = getelementptr i8, ptr %sunkaddr37, i64 120
  %.218 = load i64, ptr %sunkaddr38, align 8
  %.221 = mul i64 %.182, %.40
  %.222 = add i64 %.218, %.221
  %.229 = icmp eq i64 %.176, 1
  %or.cond = select i1 %6, i1 %.229, i1 false
  br i1 %or.cond, label %B618, label %B654

B618:                                             ; preds = %B196
  %7 = inttoptr i64 %arg.sources to ptr
  %.241 = getelementptr i64, ptr %7, i64 %.182
  store i64 %.211, ptr %.241, align 8
  br label %B1001

B654:                                             ; preds = %B196
  %.249 = icmp eq i64 %.179, 1
  br i1 %.249, label %B896.thread, label %B896

B896:                                             ; preds = %B654
  %8 = icmp eq i64 %arg.sources, 0
  %sunkaddr39 = inttoptr i64 %arg.call to ptr
  %sunkaddr40 = getelementptr i8, ptr %sunkaddr39, i64 144
  %.269 = load i64, ptr %sunkaddr40, align 8
  %sunkaddr41 = inttoptr i64 %arg.call to ptr
  %sunkaddr42 = getelementptr i8, ptr %sunkaddr41, i64 8
  %.273 = load i64, ptr %sunkaddr42, align 8
  %.279 = inttoptr i64 %.269 to ptr
  tail call void %.279(i64 %.222, i64 %.211, i64 %.176, i64 %arg.count, i64 %.273, i64 %.179)
  %.371129.not = icmp slt i64 %.179, 1
  %or.cond152 = select i1 %8, i1 true, i1 %.371129.not
  br i1 %or.cond152, label %B1001, label %B940.lr.ph

B896.thread:                                      ; preds = %B654
  %9 = icmp eq i64 %arg.sources, 0
  %sunkaddr43 = inttoptr i64 %arg.call to ptr
  %sunkaddr44 = getelementptr i8, ptr %sunkaddr43, i64 136
  %.254 = load i64, ptr %sunkaddr44, align 8
  %.259 = inttoptr i64 %.254 to ptr
  tail call void %.259(i64 %.222, i64 %.211, i64 %.176, i64 %arg.count, i64 0, i64 0)
  br i1 %9, label %B1001, label %B940.epil.preheader

B940:                                             ; preds = %B940.lr.ph.new.new, %B940
  %lsr.iv31 = phi i64 [ %lsr.iv.next32, %B940 ], [ %unroll_iter9, %B940.lr.ph.new.new ]
  %lsr.iv11 = phi i64 [ %lsr.iv.next12, %B940 ], [ %.218, %B940.lr.ph.new.new ]
  %.377128130 = phi i64 [ 0, %B940.lr.ph.new.new ], [ %.384.3.1, %B940 ]
  %10 = add i64 %.221, %lsr.iv11
  %11 = add i64 %43, %lsr.iv11
  %12 = add i64 %40, %lsr.iv11
  %13 = add i64 %36, %lsr.iv11
  %14 = shl i64 %.377128130, 3
  %scevgep24 = getelementptr i8, ptr %scevgep14, i64 %14
  %scevgep25 = getelementptr i8, ptr %scevgep24, i64 -32
  %scevgep30 = getelementptr i8, ptr %scevgep24, i64 -56
  store i64 %10, ptr %scevgep30, align 8
  %15 = shl i64 %.377128130, 3
  %scevgep28 = getelementptr i8, ptr %scevgep14, i64 %15
  %scevgep29 = getelementptr i8, ptr %scevgep28, i64 -48
  store i64 %11, ptr %scevgep29, align 8
  %16 = shl i64 %.377128130, 3
  %scevgep26 = getelementptr i8, ptr %scevgep14, i64 %16
  %scevgep27 = getelementptr i8, ptr %scevgep26, i64 -40
  store i64 %12, ptr %scevgep27, align 8
  store i64 %13, ptr %scevgep25, align 8
  %17 = add i64 %56, %lsr.iv11
  %18 = add i64 %54, %lsr.iv11
  %19 = add i64 %52, %lsr.iv11
  %20 = add i64 %50, %lsr.iv11
  %.384.3 = shl i64 %.377128130, 3
  %scevgep23 = getelementptr i8, ptr %scevgep14, i64 %.384.3
  %scevgep21 = getelementptr i8, ptr %scevgep14, i64 %.384.3
  %scevgep22 = getelementptr i8, ptr %scevgep21, i64 -24
  store i64 %20, ptr %scevgep22, align 8
  %scevgep19 = getelementptr i8, ptr %scevgep14, i64 %.384.3
  %scevgep20 = getelementptr i8, ptr %scevgep19, i64 -16
  store i64 %19, ptr %scevgep20, align 8
  %21 = shl i64 %.377128130, 3
  %scevgep15 = getelementptr i8, ptr %scevgep14, i64 %21
  %scevgep18 = getelementptr i8, ptr %scevgep15, i64 -8
  store i64 %18, ptr %scevgep18, align 8
  %.384.3.1 = add nuw i64 %.377128130, 8
  store i64 %17, ptr %scevgep23, align 8
  %lsr.iv.next12 = add i64 %lsr.iv11, %1
  %lsr.iv.next32 = add i64 %lsr.iv31, -2
  %niter.ncmp.1 = icmp eq i64 %lsr.iv.next32, 0
  br i1 %niter.ncmp.1, label %B1001.loopexit.unr-lcssa.unr-lcssa, label %B940

B1000:                                            ; preds = %B1001, %entry
  store ptr null, ptr %retptr, align 8
  ret i32 0

B1001.loopexit.unr-lcssa.unr-lcssa:               ; preds = %B940
  %22 = and i64 %47, 1
  %lcmp.mod.not10 = icmp eq i64 %22, 0
  %23 = add i64 %.221, %lsr.iv.next12
  %24 = add i64 %43, %lsr.iv.next12
  %25 = add i64 %40, %lsr.iv.next12
  %26 = add i64 %36, %lsr.iv.next12
  br i1 %lcmp.mod.not10, label %B1001.loopexit.unr-lcssa, label %B940.epil.preheader3

B940.epil.preheader3:                             ; preds = %B940.lr.ph.new, %B1001.loopexit.unr-lcssa.unr-lcssa
  %lsr.iv14.epil.init = phi i64 [ %.222, %B940.lr.ph.new ], [ %23, %B1001.loopexit.unr-lcssa.unr-lcssa ]
  %lsr.iv12.epil.init = phi i64 [ %44, %B940.lr.ph.new ], [ %24, %B1001.loopexit.unr-lcssa.unr-lcssa ]
  %lsr.iv10.epil.init = phi i64 [ %41, %B940.lr.ph.new ], [ %25, %B1001.loopexit.unr-lcssa.unr-lcssa ]
  %lsr.iv.epil.init = phi i64 [ %37, %B940.lr.ph.new ], [ %26, %B1001.loopexit.unr-lcssa.unr-lcssa ]
  %.377128130.epil.init7 = phi i64 [ 0, %B940.lr.ph.new ], [ %.384.3.1, %B1001.loopexit.unr-lcssa.unr-lcssa ]
  %27 = shl i64 %.377128130.epil.init7, 3
  %scevgep8.epil = getelementptr i8, ptr %scevgep2, i64 %27
  %scevgep9.epil = getelementptr i8, ptr %scevgep8.epil, i64 -24
  store i64 %lsr.iv14.epil.init, ptr %scevgep9.epil, align 8
  %scevgep7.epil = getelementptr i8, ptr %scevgep8.epil, i64 -16
  store i64 %lsr.iv12.epil.init, ptr %scevgep7.epil, align 8
  %scevgep5.epil = getelementptr i8, ptr %scevgep8.epil, i64 -8
  store i64 %lsr.iv10.epil.init, ptr %scevgep5.epil, align 8
  store i64 %lsr.iv.epil.init, ptr %scevgep8.epil, align 8
  br label %B1001.loopexit.unr-lcssa

B1001.loopexit.unr-lcssa:                         ; preds = %B940.epil.preheader3, %B1001.loopexit.unr-lcssa.unr-lcssa
  %lcmp.mod.not = icmp eq i64 %xtraiter, 0
  br i1 %lcmp.mod.not, label %B1001, label %B940.epil.preheader

B940.epil.preheader:                              ; preds = %B940.lr.ph, %B1001.loopexit.unr-lcssa, %B896.thread
  %xtraiter2 = phi i64 [ %xtraiter, %B940.lr.ph ], [ %xtraiter, %B1001.loopexit.unr-lcssa ], [ 1, %B896.thread ]
  %.377128130.epil.init = phi i64 [ 0, %B940.lr.ph ], [ %unroll_iter, %B1001.loopexit.unr-lcssa ], [ 0, %B896.thread ]
  %28 = inttoptr i64 %arg.sources to ptr
  %29 = add i64 %.377128130.epil.init, %.182
  %30 = shl i64 %29, 3
  %scevgep16 = getelementptr i8, ptr %28, i64 %30
  %31 = mul i64 %29, %.40
  %32 = add i64 %31, %.218
  br label %B940.epil

B940.epil:                                        ; preds = %B940.epil, %B940.epil.preheader
  %lsr.iv18 = phi i64 [ %lsr.iv.next19, %B940.epil ], [ %32, %B940.epil.preheader ]
  %epil.iter = phi i64 [ %epil.iter.next, %B940.epil ], [ 0, %B940.epil.preheader ]
  %33 = shl i64 %epil.iter, 3
  %scevgep33 = getelementptr i8, ptr %scevgep16, i64 %33
  store i64 %lsr.iv18, ptr %scevgep33, align 8
  %epil.iter.next = add i64 %epil.iter, 1
  %lsr.iv.next19 = add i64 %lsr.iv18, %.40
  %epil.iter.cmp.not = icmp eq i64 %xtraiter2, %epil.iter.next
  br i1 %epil.iter.cmp.not, label %B1001, label %B940.epil

B1001:                                            ; preds = %B940.epil, %B1001.loopexit.unr-lcssa, %B896.thread, %B896, %B618
  %exitcond150.not = icmp eq i64 %.143, %.47
  br i1 %exitcond150.not, label %B1000, label %B196

B940.lr.ph:                                       ; preds = %B896
  %xtraiter = and i64 %.179, 3
  %34 = icmp samesign ult i64 %.179, 4
  br i1 %34, label %B940.epil.preheader, label %B940.lr.ph.new

B940.lr.ph.new:                                   ; preds = %B940.lr.ph
  %unroll_iter = and i64 %.179, %const
  %35 = add i64 %.182, 3
  %36 = mul i64 %35, %.40
  %37 = add i64 %.218, %36
  %38 = shl i64 %.182, 3
  %scevgep2 = getelementptr i8, ptr %scevgep, i64 %38
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
  br i1 %48, label %B940.epil.preheader3, label %B940.lr.ph.new.new

B940.lr.ph.new.new:                               ; preds = %B940.lr.ph.new
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
  br label %B940
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
  %.17 = getelementptr i8, ptr %.8, i64 184
  %.18 = load i64, ptr %.17, align 8
  %.21 = getelementptr i8, ptr %.8, i64 120
  %.22 = load i64, ptr %.21, align 8
  %.61 = getelementptr i8, ptr %.8, i64 80
  %.62 = load i64, ptr %.61, align 8
  %.65 = getelementptr i8, ptr %.8, i64 104
  %.66 = load i64, ptr %.65, align 8
  %.69 = getelementptr i8, ptr %.8, i64 112
  %.70 = load i64, ptr %.69, align 8
  %.82 = getelementptr i8, ptr %.8, i64 280
  %.83 = load i64, ptr %.82, align 8
  %.89 = getelementptr i8, ptr %.8, i64 296
  %.90 = load i64, ptr %.89, align 8
  %.93 = getelementptr i8, ptr %.8, i64 200
  %.94 = load i64, ptr %.93, align 8
  %.96 = mul nsw i64 %.94, %.14
  %.98 = add nsw i64 %.96, %.18
  %.101 = getelementptr i8, ptr %.8, i64 24
  %.102 = load i64, ptr %.101, align 8
  %.105 = getelementptr i8, ptr %.8, i64 192
  %.106 = load i64, ptr %.105, align 8
  %.109 = getelementptr i8, ptr %.8, i64 208
  %.110 = load i64, ptr %.109, align 8
  %.111 = inttoptr i64 %.90 to ptr
  tail call void %.111(i64 %.98, i64 %.102, i64 %.106, i64 %.110, i64 0, i64 0)
  %.115 = getelementptr i8, ptr %.8, i64 240
  %.116 = load i64, ptr %.115, align 8
  %.198340.not = icmp slt i64 %.116, 1
  br i1 %.198340.not, label %B920.endif, label %B800.lr.ph

B800.lr.ph:                                       ; preds = %B0.endif
  br label %B800

B800:                                             ; preds = %B798.backedge, %B800.lr.ph
  %lsr.iv53 = phi i64 [ %.116, %B800.lr.ph ], [ %lsr.iv.next54, %B798.backedge ]
  %lsr.iv51 = phi i64 [ 0, %B800.lr.ph ], [ %lsr.iv.next52, %B798.backedge ]
  %sunkaddr = inttoptr i64 %arg.call to ptr
  %sunkaddr55 = getelementptr i8, ptr %sunkaddr, i64 232
  %.239 = load i64, ptr %sunkaddr55, align 8
  %0 = add i64 %lsr.iv51, %.239
  %.248 = call i32 @run_tape.run_line(ptr nonnull %.244, ptr nonnull %excinfo.1, i64 %arg.call, i64 %.18, i64 %0, i64 1)
  switch i32 %.248, label %common.ret.loopexit32 [
    i32 -2, label %B798.backedge
    i32 0, label %B798.backedge
  ]

B798.backedge:                                    ; preds = %B800, %B800
  %lsr.iv.next52 = add i64 %lsr.iv51, 40
  %lsr.iv.next54 = add i64 %lsr.iv53, -1
  %exitcond.not = icmp eq i64 %lsr.iv.next54, 0
  br i1 %exitcond.not, label %B920.endif, label %B800

B1000:                                            ; preds = %B1000.lr.ph, %B1000
  %lsr.iv49 = phi i64 [ %.276, %B1000.lr.ph ], [ %lsr.iv.next50, %B1000 ]
  %lsr.iv47 = phi i64 [ 0, %B1000.lr.ph ], [ %lsr.iv.next48, %B1000 ]
  %sunkaddr56 = inttoptr i64 %arg.call to ptr
  %sunkaddr57 = getelementptr i8, ptr %sunkaddr56, i64 216
  %.397 = load i64, ptr %sunkaddr57, align 8
  %1 = add i64 %lsr.iv47, %.397
  %sunkaddr58 = inttoptr i64 %arg.call to ptr
  %sunkaddr59 = getelementptr i8, ptr %sunkaddr58, i64 288
  %.403 = load i64, ptr %sunkaddr59, align 8
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
  %lsr.iv.next48 = add nuw i64 %lsr.iv47, 40
  %lsr.iv.next50 = add i64 %lsr.iv49, -1
  %exitcond528.not = icmp eq i64 %lsr.iv.next50, 0
  br i1 %exitcond528.not, label %B1264.endif, label %B1000

B1396:                                            ; preds = %B1396.lr.ph, %B2390
  %.519399451 = phi i64 [ %.476, %B1396.lr.ph ], [ %.529, %B2390 ]
  %.526403450 = phi i64 [ %.435, %B1396.lr.ph ], [ %.533, %B2390 ]
  %.529 = add nsw i64 %.519399451, -1
  %.533 = add i64 %.526403450, 1
  %sunkaddr60 = inttoptr i64 %.62 to ptr
  %sunkaddr61 = mul i64 %.526403450, 8
  %sunkaddr62 = getelementptr i8, ptr %sunkaddr60, i64 %sunkaddr61
  %.565 = load i64, ptr %sunkaddr62, align 8
  %sunkaddr63 = inttoptr i64 %.62 to ptr
  %sunkaddr64 = mul i64 %.533, 8
  %sunkaddr65 = getelementptr i8, ptr %sunkaddr63, i64 %sunkaddr64
  %.571 = load i64, ptr %sunkaddr65, align 8
  %.579 = icmp slt i64 %.565, %.571
  br i1 %.579, label %B1482.preheader, label %B2390

B1482.preheader:                                  ; preds = %B1396
  %factor.op.mul.reass = mul i64 %factor.op.mul372, %.526403450
  %.990 = add nsw i64 %factor.op.mul.reass, %.66
  br label %B1482.endif

B1638:                                            ; preds = %B1638.preheader, %B1636.backedge
  %lsr.iv37 = phi i64 [ %.650, %B1638.preheader ], [ %lsr.iv.next38, %B1636.backedge ]
  %lsr.iv35 = phi i64 [ 0, %B1638.preheader ], [ %lsr.iv.next36, %B1636.backedge ]
  %sunkaddr66 = inttoptr i64 %arg.call to ptr
  %sunkaddr67 = getelementptr i8, ptr %sunkaddr66, i64 248
  %.771 = load i64, ptr %sunkaddr67, align 8
  %2 = add i64 %lsr.iv35, %.771
  %.781 = call i32 @run_tape.run_line(ptr nonnull %.777, ptr nonnull %excinfo.4, i64 %arg.call, i64 %.22, i64 %2, i64 %.10)
  switch i32 %.781, label %common.ret.loopexit [
    i32 -2, label %B1636.backedge
    i32 0, label %B1636.backedge
  ]

B1636.backedge:                                   ; preds = %B1638, %B1638
  %lsr.iv.next36 = add i64 %lsr.iv35, 40
  %lsr.iv.next38 = add i64 %lsr.iv37, -1
  %exitcond529.not = icmp eq i64 %lsr.iv.next38, 0
  br i1 %exitcond529.not, label %B1758.endif, label %B1638

B1838:                                            ; preds = %B1838.preheader, %B1838
  %lsr.iv41 = phi i64 [ %.809, %B1838.preheader ], [ %lsr.iv.next42, %B1838 ]
  %lsr.iv39 = phi i64 [ 0, %B1838.preheader ], [ %lsr.iv.next40, %B1838 ]
  %3 = inttoptr i64 %arg.call to ptr
  %sunkaddr68 = inttoptr i64 %arg.call to ptr
  %sunkaddr69 = getelementptr i8, ptr %sunkaddr68, i64 264
  %.930 = load i64, ptr %sunkaddr69, align 8
  %4 = add i64 %lsr.iv39, %.930
  %.937 = inttoptr i64 %4 to ptr
  %.939 = load i64, ptr %.937, align 8
  %.944 = icmp slt i64 %.939, 0
  %switch.selectcmp = icmp eq i64 %.939, 1
  %switch.select = select i1 %switch.selectcmp, i64 44, i64 45
  %switch.selectcmp324 = icmp eq i64 %.939, 0
  %switch.select325 = select i1 %switch.selectcmp324, i64 46, i64 %switch.select
  %"$phi2086.2.4.4" = select i1 %.944, i64 48, i64 %switch.select325
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
  %lsr.iv.next40 = add nuw i64 %lsr.iv39, 40
  %lsr.iv.next42 = add i64 %lsr.iv41, -1
  %exitcond530.not = icmp eq i64 %lsr.iv.next42, 0
  br i1 %exitcond530.not, label %B2246.endif, label %B1838

B2324.backedge:                                   ; preds = %B2324.backedge.preheader, %B2324.backedge
  %lsr.iv45 = phi i64 [ %.1010, %B2324.backedge.preheader ], [ %lsr.iv.next46, %B2324.backedge ]
  %lsr.iv43 = phi i64 [ 0, %B2324.backedge.preheader ], [ %lsr.iv.next44, %B2324.backedge ]
  %5 = inttoptr i64 %arg.call to ptr
  %sunkaddr70 = inttoptr i64 %arg.call to ptr
  %sunkaddr71 = getelementptr i8, ptr %sunkaddr70, i64 64
  %.19.i = load i64, ptr %sunkaddr71, align 8
  %6 = add i64 %lsr.iv43, %.19.i
  %sunkaddr72 = inttoptr i64 %arg.call to ptr
  %sunkaddr73 = getelementptr i8, ptr %sunkaddr72, i64 120
  %.29.i = load i64, ptr %sunkaddr73, align 8
  %.31.i = inttoptr i64 %6 to ptr
  %.32.i = getelementptr i8, ptr %.31.i, i64 24
  %.33.i = load i64, ptr %.32.i, align 8
  %sunkaddr74 = inttoptr i64 %arg.call to ptr
  %sunkaddr75 = getelementptr i8, ptr %sunkaddr74, i64 8
  %.37.i = load i64, ptr %sunkaddr75, align 8
  %sunkaddr76 = inttoptr i64 %arg.call to ptr
  %sunkaddr77 = getelementptr i8, ptr %sunkaddr76, i64 16
  %.42.i = load i64, ptr %sunkaddr77, align 8
  %sunkaddr78 = inttoptr i64 %arg.call to ptr
  %sunkaddr79 = getelementptr i8, ptr %sunkaddr78, i64 168
  %.51.i = load i64, ptr %sunkaddr79, align 8
  %.52.i = icmp eq i64 %.51.i, 1
  %.59.i = getelementptr i8, ptr %.31.i, i64 16
  %.60.i = load i64, ptr %.59.i, align 8
  %.61.i = icmp eq i64 %.60.i, 1
  %7 = select i1 %.52.i, i1 %.61.i, i1 false
  %.sink.i = select i1 %7, i64 160, i64 152
  %.38.i = mul nsw i64 %.37.i, %.33.i
  %.43.i = mul nsw i64 %.38.i, %.42.i
  %.44.i = add nsw i64 %.43.i, %.29.i
  %.79.i = getelementptr i8, ptr %5, i64 %.sink.i
  %"$phi488.0.2.0.i" = load i64, ptr %.79.i, align 8
  %sunkaddr80 = inttoptr i64 %arg.call to ptr
  %sunkaddr81 = getelementptr i8, ptr %sunkaddr80, i64 40
  %.14.i.i = load i64, ptr %sunkaddr81, align 8
  %.17.i.i = load i64, ptr %.31.i, align 8
  %.18.i.i = inttoptr i64 %.14.i.i to ptr
  %.19.i.i = getelementptr i64, ptr %.18.i.i, i64 %.17.i.i
  %.20.i.i = load i64, ptr %.19.i.i, align 8
  %.22.i.i = getelementptr i8, ptr %.31.i, i64 8
  %.23.i.i = load i64, ptr %.22.i.i, align 8
  %.28.i.i = mul i64 %.42.i, %first.2.1
  %.32.i.i = mul i64 %.28.i.i, %.60.i
  %.24.i.i = add i64 %.20.i.i, %.32.i.i
  %.33.i.i = add i64 %.24.i.i, %.23.i.i
  %.130.i = inttoptr i64 %"$phi488.0.2.0.i" to ptr
  tail call void %.130.i(i64 %.44.i, i64 %.33.i.i, i64 %.60.i, i64 %.13.i, i64 0, i64 0)
  %lsr.iv.next44 = add nuw i64 %lsr.iv43, 40
  %lsr.iv.next46 = add i64 %lsr.iv45, -1
  %exitcond531.not = icmp eq i64 %lsr.iv.next46, 0
  br i1 %exitcond531.not, label %B2366, label %B2324.backedge

B2366:                                            ; preds = %B2246.endif, %B2324.backedge
  %.1164 = add nsw i64 %first.2.1, %.10
  %.1168 = icmp slt i64 %.1164, %.571
  br i1 %.1168, label %B1482.endif, label %B2390

B2390:                                            ; preds = %B2366, %B1396
  %.520 = icmp sgt i64 %.519399451, 1
  br i1 %.520, label %B1396, label %common.ret

common.ret.loopexit:                              ; preds = %B1638
  br label %common.ret

common.ret.loopexit32:                            ; preds = %B800
  br label %common.ret

common.ret:                                       ; preds = %B1264.endif, %common.ret.loopexit32, %common.ret.loopexit, %B2390
  %excinfo.sink = phi ptr [ %excinfo, %common.ret.loopexit32 ], [ %retptr, %B1264.endif ], [ %excinfo, %common.ret.loopexit ], [ %retptr, %B2390 ]
  %common.ret.op = phi i32 [ %.248, %common.ret.loopexit32 ], [ 0, %B1264.endif ], [ %.781, %common.ret.loopexit ], [ 0, %B2390 ]
  store ptr null, ptr %excinfo.sink, align 8
  ret i32 %common.ret.op

B920.endif:                                       ; preds = %B798.backedge, %B0.endif
  %8 = inttoptr i64 %arg.call to ptr
  %.275 = getelementptr i8, ptr %8, i64 224
  %.276 = load i64, ptr %.275, align 8
  %.356346.not = icmp slt i64 %.276, 1
  br i1 %.356346.not, label %B1264.endif, label %B1000.lr.ph

B1000.lr.ph:                                      ; preds = %B920.endif
  %.408 = mul i64 %.14, %.10
  br label %B1000

B1264.endif:                                      ; preds = %B920.endif, %B1000
  %9 = inttoptr i64 %arg.call to ptr
  %.434 = getelementptr i8, ptr %9, i64 88
  %.435 = load i64, ptr %.434, align 8
  %.438 = getelementptr i8, ptr %9, i64 96
  %.439 = load i64, ptr %.438, align 8
  %.476 = sub i64 %.439, %.435
  %.520443.not = icmp slt i64 %.476, 1
  br i1 %.520443.not, label %common.ret, label %B1396.lr.ph

B1396.lr.ph:                                      ; preds = %B1264.endif
  %factor.op.mul372 = shl i64 %.70, 3
  br label %B1396

B1482.endif:                                      ; preds = %B2366, %B1482.preheader
  %first.2.1 = phi i64 [ %.1164, %B2366 ], [ %.565, %B1482.preheader ]
  %.586 = sub nsw i64 %.571, %first.2.1
  %.13.i = tail call i64 @llvm.smin.i64(i64 %.586, i64 %.10)
  %sunkaddr82 = inttoptr i64 %arg.call to ptr
  %sunkaddr83 = getelementptr i8, ptr %sunkaddr82, i64 16
  %.31.i12 = load i64, ptr %sunkaddr83, align 8
  %sunkaddr84 = inttoptr i64 %arg.call to ptr
  %sunkaddr85 = getelementptr i8, ptr %sunkaddr84, i64 8
  %.38.i14 = load i64, ptr %sunkaddr85, align 8
  %.40.i = mul i64 %.38.i14, %.31.i12
  %sunkaddr86 = inttoptr i64 %arg.call to ptr
  %sunkaddr87 = getelementptr i8, ptr %sunkaddr86, i64 56
  %.47.i = load i64, ptr %sunkaddr87, align 8
  %.130141.not.i = icmp slt i64 %.47.i, 1
  br i1 %.130141.not.i, label %B1482.endif.endif.endif, label %B196.lr.ph.i

B196.lr.ph.i:                                     ; preds = %B1482.endif
  %.208.i = mul i64 %.31.i12, %first.2.1
  br label %B196.i

B196.i:                                           ; preds = %B1001.i, %B196.lr.ph.i
  %lsr.iv33 = phi i64 [ %lsr.iv.next34, %B1001.i ], [ %.47.i, %B196.lr.ph.i ]
  %lsr.iv = phi i64 [ %lsr.iv.next, %B1001.i ], [ 0, %B196.lr.ph.i ]
  %sunkaddr88 = inttoptr i64 %arg.call to ptr
  %sunkaddr89 = getelementptr i8, ptr %sunkaddr88, i64 48
  %.171.i = load i64, ptr %sunkaddr89, align 8
  %10 = add i64 %lsr.iv, %.171.i
  %.174.i = inttoptr i64 %10 to ptr
  %.175.i = getelementptr i8, ptr %.174.i, i64 16
  %.176.i = load i64, ptr %.175.i, align 8
  %.178.i = getelementptr i8, ptr %.174.i, i64 24
  %.179.i = load i64, ptr %.178.i, align 8
  %.181.i = getelementptr i8, ptr %.174.i, i64 32
  %.182.i = load i64, ptr %.181.i, align 8
  %sunkaddr90 = inttoptr i64 %arg.call to ptr
  %sunkaddr91 = getelementptr i8, ptr %sunkaddr90, i64 32
  %.195.i = load i64, ptr %sunkaddr91, align 8
  %.198.i = load i64, ptr %.174.i, align 8
  %.199.i = inttoptr i64 %.195.i to ptr
  %.200.i = getelementptr i64, ptr %.199.i, i64 %.198.i
  %.201.i = load i64, ptr %.200.i, align 8
  %.203.i = getelementptr i8, ptr %.174.i, i64 8
  %.204.i = load i64, ptr %.203.i, align 8
  %.210.i = mul i64 %.208.i, %.176.i
  %.205.i = add i64 %.201.i, %.210.i
  %.211.i = add i64 %.205.i, %.204.i
  %sunkaddr92 = inttoptr i64 %arg.call to ptr
  %sunkaddr93 = getelementptr i8, ptr %sunkaddr92, i64 120
  %.218.i = load i64, ptr %sunkaddr93, align 8
  %.221.i = mul i64 %.40.i, %.182.i
  %.222.i = add i64 %.218.i, %.221.i
  %.249.i = icmp eq i64 %.179.i, 1
  br i1 %.249.i, label %B896.thread.i, label %B896.i

B896.i:                                           ; preds = %B196.i
  %sunkaddr94 = inttoptr i64 %arg.call to ptr
  %sunkaddr95 = getelementptr i8, ptr %sunkaddr94, i64 144
  %.269.i = load i64, ptr %sunkaddr95, align 8
  %sunkaddr96 = inttoptr i64 %arg.call to ptr
  %sunkaddr97 = getelementptr i8, ptr %sunkaddr96, i64 8
  %.273.i = load i64, ptr %sunkaddr97, align 8
  %.279.i = inttoptr i64 %.269.i to ptr
  tail call void %.279.i(i64 %.222.i, i64 %.211.i, i64 %.176.i, i64 %.13.i, i64 %.273.i, i64 %.179.i)
  br label %B1001.i

B896.thread.i:                                    ; preds = %B196.i
  %sunkaddr98 = inttoptr i64 %arg.call to ptr
  %sunkaddr99 = getelementptr i8, ptr %sunkaddr98, i64 136
  %.254.i = load i64, ptr %sunkaddr99, align 8
  %.259.i = inttoptr i64 %.254.i to ptr
  tail call void %.259.i(i64 %.222.i, i64 %.211.i, i64 %.176.i, i64 %.13.i, i64 0, i64 0)
  br label %B1001.i

B1001.i:                                          ; preds = %B896.thread.i, %B896.i
  %lsr.iv.next = add nuw i64 %lsr.iv, 40
  %lsr.iv.next34 = add i64 %lsr.iv33, -1
  %exitcond150.not.i = icmp eq i64 %lsr.iv.next34, 0
  br i1 %exitcond150.not.i, label %B1482.endif.endif.endif, label %B196.i

B1482.endif.endif.endif:                          ; preds = %B1001.i, %B1482.endif
  %sunkaddr100 = inttoptr i64 %arg.call to ptr
  %sunkaddr101 = getelementptr i8, ptr %sunkaddr100, i64 256
  %.650 = load i64, ptr %sunkaddr101, align 8
  %.730353.not = icmp slt i64 %.650, 1
  br i1 %.730353.not, label %B1758.endif, label %B1638.preheader

B1638.preheader:                                  ; preds = %B1482.endif.endif.endif
  br label %B1638

B1758.endif:                                      ; preds = %B1482.endif.endif.endif, %B1636.backedge
  %sunkaddr102 = inttoptr i64 %arg.call to ptr
  %sunkaddr103 = getelementptr i8, ptr %sunkaddr102, i64 272
  %.809 = load i64, ptr %sunkaddr103, align 8
  %.889360.not = icmp slt i64 %.809, 1
  br i1 %.889360.not, label %B2246.endif, label %B1838.preheader

B1838.preheader:                                  ; preds = %B1758.endif
  br label %B1838

B2246.endif:                                      ; preds = %B1758.endif, %B1838
  %sunkaddr104 = inttoptr i64 %arg.call to ptr
  %sunkaddr105 = getelementptr i8, ptr %sunkaddr104, i64 72
  %.1010 = load i64, ptr %sunkaddr105, align 8
  %.1090367.not = icmp slt i64 %.1010, 1
  br i1 %.1090367.not, label %B2366, label %B2324.backedge.preheader

B2324.backedge.preheader:                         ; preds = %B2246.endif
  br label %B2324.backedge
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
  %.76 = getelementptr i8, ptr %.75, i64 280
  %.77 = load i64, ptr %.76, align 8
  %.82 = icmp sgt i64 %.16, -1
  br i1 %.82, label %B234, label %B340

common.ret:                                       ; preds = %B976, %B816, %B576, %B464, %B352, %B234
  store ptr null, ptr %retptr, align 8
  ret i32 0

B234:                                             ; preds = %B0
  %0 = inttoptr i64 %arg.call to ptr
  %.88 = getelementptr i8, ptr %0, i64 304
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
  %.128 = getelementptr i8, ptr %1, i64 312
  %.129 = load i64, ptr %.128, align 8
  %.134 = sub nsw i64 %.22, %.19
  %.142 = inttoptr i64 %.129 to ptr
  tail call void %.142(i64 %arg.v, i64 %.77, i64 %.25, i64 %.19, i64 %.134, i64 %arg.tile)
  br label %common.ret

B464:                                             ; preds = %B340
  %2 = inttoptr i64 %arg.call to ptr
  %.165 = getelementptr i8, ptr %2, i64 320
  %.166 = load i64, ptr %.165, align 8
  %.171 = sub nsw i64 %.22, %.19
  %.179 = inttoptr i64 %.166 to ptr
  tail call void %.179(i64 %arg.v, i64 %.77, i64 %.25, i64 %.19, i64 %.171, i64 %arg.tile)
  br label %common.ret

B576:                                             ; preds = %B340
  %3 = inttoptr i64 %arg.call to ptr
  %.200 = sub nsw i64 %.22, %.19
  %.203 = icmp eq i64 %.200, 1
  %"$phi696.0.2.0.in.v" = select i1 %.203, i64 328, i64 336
  %"$phi696.0.2.0.in" = getelementptr i8, ptr %3, i64 %"$phi696.0.2.0.in.v"
  %"$phi696.0.2.0" = load i64, ptr %"$phi696.0.2.0.in", align 8
  %.225 = getelementptr i8, ptr %3, i64 184
  %.226 = load i64, ptr %.225, align 8
  %.230 = shl nsw i64 %.25, 2
  %.234 = add nsw i64 %.77, %.230
  %.241 = inttoptr i64 %"$phi696.0.2.0" to ptr
  tail call void %.241(i64 %arg.v, i64 %.226, i64 %.234, i64 %.19, i64 %.28, i64 %arg.tile)
  br label %common.ret

B816:                                             ; preds = %B340
  %4 = inttoptr i64 %arg.call to ptr
  %.262 = getelementptr i8, ptr %4, i64 376
  %.263 = load i64, ptr %.262, align 8
  %.266 = getelementptr i8, ptr %4, i64 184
  %.267 = load i64, ptr %.266, align 8
  %.271 = shl nsw i64 %.25, 2
  %.275 = add nsw i64 %.77, %.271
  %.280 = sub nsw i64 %.22, %.19
  %.286 = inttoptr i64 %.263 to ptr
  tail call void %.286(i64 %arg.v, i64 %.267, i64 %.275, i64 %.19, i64 %.280, i64 %arg.tile)
  br label %common.ret

B976:                                             ; preds = %B340
  %5 = inttoptr i64 %arg.call to ptr
  %.300 = getelementptr i8, ptr %5, i64 344
  %.301 = load i64, ptr %.300, align 8
  %.304 = getelementptr i8, ptr %5, i64 184
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
