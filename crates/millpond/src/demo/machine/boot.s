# A guest in one sector: what a machine of the demo boots from its disk.
#
# It says that it is there, and then does what comes in at its serial port: commands of 18 bytes, the function of the
# BIOS's INT 13h (0x42 reads, 0x43 writes, 0 switches the machine off), the packet of 16 bytes that it takes (count,
# buffer, sector), and how many times to do it, each behind the last. Each time it answers with 5 bytes: the BIOS's
# status, 0 for success, and a checksum of the buffer (FNV-1a by words of 32 bits).
#
# Bytes 3 to 90 are left alone: a FAT has its parameters there. boot.rs has the bytes, and a test assembles this.

        .code16
        .text
        jmp     begin
        nop
        .org    0x5a

begin:  cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        cld
        mov     %dl, drive                      # the disk that it was booted from
        movw    $wake, 4*0x0c                   # IRQ 4: the serial port
        mov     %ax, 4*0x0c+2
        mov     $0x3f9, %dx                     # tell of each byte,
        mov     $1, %al
        out     %al, %dx
        inc     %dx                             # keep up to 16,
        out     %al, %dx
        mov     $0x3fc, %dx                     # and let that pass
        mov     $8, %al
        out     %al, %dx
        in      $0x21, %al
        and     $0xef, %al
        out     %al, $0x21
        mov     $hello, %si
greet:  lodsb
        test    %al, %al
        jz      next
        call    send
        jmp     greet

next:   mov     $command, %di
        mov     $18, %cx
1:      call    receive
        stosb
        loop    1b
        cmpb    $0, command
        je      off
again:  mov     command, %ah
        mov     $packet, %si
        mov     drive, %dl
        int     $0x13
        mov     %ah, %al
        call    send
        mov     packet+2, %cx                   # sectors,
        shl     $7, %cx                         # of 128 words
        mov     $0x811c9dc5, %ebp
        push    %ds
        lds     packet+4, %si
2:      lodsl
        xor     %eax, %ebp
        imul    $0x01000193, %ebp, %ebp
        loop    2b
        pop     %ds
        mov     $4, %cl
3:      mov     %ebp, %eax
        call    send
        shr     $8, %ebp
        loop    3b
        movzwl  packet+2, %eax
        add     %eax, packet+8
        decb    times
        jnz     again
        jmp     next

receive:                                        # a byte to al; sleeps until there is one
        mov     $0x3fd, %dx
        cli
        in      %dx, %al
        test    $1, %al
        jnz     4f
        sti
        hlt
        jmp     receive
4:      sti
        mov     $0xf8, %dl
        in      %dx, %al
        ret

send:   push    %ax                             # the byte in al
        mov     $0x3fd, %dx
5:      in      %dx, %al
        test    $0x20, %al
        jz      5b
        pop     %ax
        mov     $0xf8, %dl
        out     %al, %dx
        ret

wake:   push    %ax                             # something came: receive looks
        mov     $0x20, %al
        out     %al, $0x20
        pop     %ax
        iret

off:    mov     $0x604, %dx                     # ACPI: PM1a control, sleep type 0, sleep enable
        mov     $0x2000, %ax
        out     %ax, %dx
        hlt
        jmp     off

hello:  .asciz  "millpond guest\n"
        .org    0x1fe
        .word   0xaa55
        .set    command, 0x0500 + 0x7c00        # behind the sector
        .set    packet, command + 1
        .set    times, command + 17
        .set    drive, command + 18
